//! Element types: dtypes, and classes of dtypes that are one dtype throughout a signature.

use super::annotation::Site;
use super::value::{Tensor, Value};
use super::{Checked, Elaborator};
use crate::modules::closest;
use crate::syntax::ast::{DimExpr, Ident};
use thalweg_base::{DType, Diagnostic, Span};
use thalweg_tensor::TensorType;

/// What stands before `[…]` in a type.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Element {
    /// One dtype
    Exact(DType),
    /// Any floating-point dtype, the same throughout a signature
    Float,
    /// Any integer dtype, likewise
    Int,
    /// Any dtype, likewise
    Any,
}

impl Elaborator<'_> {
    pub(crate) fn element(&mut self, name: &Ident) -> Checked<Element> {
        match &*name.name {
            "float" => Ok(Element::Float),
            "int" => Ok(Element::Int),
            "any" => Ok(Element::Any),
            other => match other.parse() {
                Ok(dtype) => Ok(Element::Exact(dtype)),
                Err(_) => {
                    let known = DType::ALL.iter().map(|dtype| dtype.name()).chain(["float", "int", "any"]);
                    let mut error = Diagnostic::error("E0110", format!("there is no element type `{other}`"))
                        .at(name.span, "not a dtype");
                    if let Some(close) = closest(other, known) {
                        error = error.help(format!("did you mean `{close}`?"));
                    }
                    Err(self.fail(error))
                }
            },
        }
    }

    /// The dtype that an element type stands for in this frame, `or` the dtype that a free class is taken to be.
    pub(crate) fn element_dtype(&mut self, name: &Ident, or: Option<DType>) -> Checked<DType> {
        let element = self.element(name)?;
        if let Element::Exact(dtype) = element {
            return Ok(dtype);
        }
        if let Some((dtype, _)) = self.frame().classes.get(&name.name) {
            return Ok(*dtype);
        }
        let dtype = or.unwrap_or(if element == Element::Int { DType::I32 } else { DType::F32 });
        self.frame_mut().classes.insert(name.name.clone(), (dtype, None));
        Ok(dtype)
    }

    pub(super) fn match_element(&mut self, name: &Ident, dtype: DType, site: &Site) -> Checked<()> {
        let element = self.element(name)?;
        let fits = match element {
            Element::Exact(exact) => exact == dtype,
            Element::Float => dtype.is_float(),
            Element::Int => dtype.is_integer(),
            Element::Any => true,
        };
        let wanted = match element {
            Element::Exact(exact) => exact.to_string(),
            Element::Float => "a floating-point dtype".into(),
            Element::Int => "an integer dtype".into(),
            Element::Any => "any dtype".into(),
        };
        if !fits {
            let text = self.program.sources.text(site.span).to_string();
            let to = if let Element::Exact(exact) = element {
                exact.name()
            } else if element == Element::Int {
                "i32"
            } else {
                "f32"
            };
            let error = Diagnostic::error("E0301", format!("{} must have {wanted}, not {dtype}", site.what))
                .at(site.span, format!("this has dtype {dtype}"))
                .label(site.ty, format!("{wanted} is asked for here"))
                .help(format!("write `convert({text}, {to})`"));
            return Err(self.fail(error));
        }
        if let Element::Exact(_) = element {
            return Ok(());
        }
        match self.frame().classes.get(&name.name) {
            Some((first, origin)) if *first != dtype => {
                let (first, origin) = (*first, *origin);
                let mut error =
                    Diagnostic::error("E0301", format!("{} must have dtype {first}, not {dtype}", site.what))
                        .at(site.span, format!("this has dtype {dtype}"));
                if let Some(origin) = origin {
                    error = error.label(origin, format!("`{}` is {first} because of this", name.name));
                }
                Err(self.fail(error))
            }
            Some(_) => Ok(()),
            None => {
                self.frame_mut().classes.insert(name.name.clone(), (dtype, Some(site.span)));
                Ok(())
            }
        }
    }

    /// A literal where a tensor of rank 0 or of known shape is asked for.
    pub(crate) fn literal_as(
        &mut self,
        element: &Ident,
        dims: &[DimExpr],
        value: &Value,
        span: Span,
    ) -> Checked<Tensor> {
        let dtype = self.element_dtype(element, None)?;
        let scalar = self.literal(value, dtype, span)?;
        if dims.is_empty() || dims.iter().all(|dim| matches!(dim, DimExpr::Rest(_))) {
            return Ok(scalar);
        }
        let (shape, infos) = self.shape_of(dims)?;
        let ty = TensorType { dtype, shape };
        self.expand(&scalar, &ty.shape, infos, span)
    }
}
