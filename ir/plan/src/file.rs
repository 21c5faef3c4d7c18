//! Plans on disk: RON, which people can read and compare.

use crate::{Plan, verify};
use serde::{Deserialize, Deserializer, Serializer};

/// The format that this version writes and reads.
pub const FORMAT_VERSION: u32 = 4;

/// Why a text is no plan that can be used.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanFileError {
    /// It is not a plan at all, or of another shape.
    #[error("this is no plan file: {0}")]
    Syntax(String),
    /// It was written by another version.
    #[error(
        "the plan file has format {found}; this version reads format {FORMAT_VERSION}: compile the model again"
    )]
    Version {
        /// The format of the file.
        found: u32,
    },
    /// It contradicts itself.
    #[error("the plan file is damaged: {0}")]
    Invalid(String),
}

/// The part of a plan that tells its version, whatever the rest looks like.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Plan {
    /// The plan as text.
    pub fn to_text(&self) -> String {
        let config = ron::ser::PrettyConfig::new().depth_limit(3).indentor("  ");
        ron::ser::to_string_pretty(self, config).expect("a plan is plain data")
    }

    /// The plan that a text holds; it is verified, as files may be damaged or made by others.
    pub fn from_text(text: &str) -> Result<Plan, PlanFileError> {
        let syntax = |error: ron::error::SpannedError| PlanFileError::Syntax(error.to_string());
        let Versioned { version } = ron::from_str(text).map_err(syntax)?;
        if version != FORMAT_VERSION {
            return Err(PlanFileError::Version { found: version });
        }
        let plan: Plan = ron::from_str(text).map_err(syntax)?;
        match verify::verify(&plan).into_iter().next() {
            None => Ok(plan),
            Some(violation) => Err(PlanFileError::Invalid(violation)),
        }
    }
}

/// Bytes as hexadecimal digits.
pub(crate) mod hex {
    use super::{Deserialize, Deserializer, Serializer};
    use std::fmt::Write;

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(bytes.len() * 2);
        for byte in bytes {
            write!(text, "{byte:02x}").expect("writing to a string");
        }
        serializer.serialize_str(&text)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
        match digits {
            Some(digits) if digits.len() % 2 == 0 => {
                Ok(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
            }
            Some(_) | None => Err(serde::de::Error::custom("machine code is not hexadecimal")),
        }
    }
}
