//! SVG, which every browser shows.

use super::layout::{Rectangle, layout};
use super::{Kind, Picture};
use std::fmt::Write;
use thalweg_tensor::Graph;

/// The graph as an SVG picture. Titles of boxes, shown when the pointer rests on them, have the whole scope.
pub fn svg(graph: &Graph) -> String {
    let picture = Picture::of(graph);
    let layout = layout(&picture);
    let mut text = String::new();
    let mut line = |content: String| writeln!(text, "{content}").expect("writing to a string");
    let (width, height) = (layout.width.ceil(), layout.height.ceil());
    line(format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="Helvetica, Arial, sans-serif" font-size="11">"#
    ));
    line(format!("<title>{}</title>", escaped(&picture.name)));
    line(
        r##"<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="6" markerHeight="6" orient="auto"><path d="M0 0L8 4L0 8z" fill="#777"/></marker></defs>"##
            .into(),
    );
    line(r##"<rect width="100%" height="100%" fill="#ffffff"/>"##.into());
    for (name, area) in &layout.scopes {
        line(rectangle(area, r##"rx="8" fill="#000000" fill-opacity="0.03" stroke="#b0b0b0""##));
        line(format!(
            r##"<text x="{:.1}" y="{:.1}" fill="#555555" font-weight="bold">{}</text>"##,
            area.x + 8.0,
            area.y + 14.0,
            escaped(name)
        ));
    }
    for (from, to) in &picture.arrows {
        line(arrow(&layout.boxes[*from], &layout.boxes[*to]));
    }
    for (shown, area) in picture.boxes.iter().zip(&layout.boxes) {
        let center = area.x + area.width / 2.0;
        let stroke = if shown.kind == Kind::Heavy { "#a0522d" } else { "#666666" };
        line("<g>".into());
        let scope =
            if shown.scope.is_empty() { String::new() } else { format!(" in {}", shown.scope.join(".")) };
        line(format!(
            "<title>{}: {}{}</title>",
            escaped(&shown.title),
            escaped(&shown.detail),
            escaped(&scope)
        ));
        line(rectangle(area, &format!(r#"rx="5" fill="{}" stroke="{stroke}""#, shown.kind.color())));
        let row = |y: f64, color: &str, content: &str| {
            format!(
                r#"<text x="{center:.1}" y="{:.1}" text-anchor="middle" fill="{color}">{}</text>"#,
                area.y + y,
                escaped(content)
            )
        };
        line(row(15.0, "#000000", &shown.title));
        line(row(29.0, "#555555", &shown.detail));
        line("</g>".into());
    }
    line("</svg>".into());
    text
}

fn rectangle(area: &Rectangle, style: &str) -> String {
    let Rectangle { x, y, width, height } = area;
    format!(r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" {style}/>"#)
}

/// A curve from the bottom of one box to the top of another.
fn arrow(from: &Rectangle, to: &Rectangle) -> String {
    let (x0, y0) = (from.x + from.width / 2.0, from.y + from.height);
    let (x1, y1) = (to.x + to.width / 2.0, to.y);
    let bend = ((y1 - y0).abs() / 2.0).clamp(12.0, 60.0);
    format!(
        r##"<path d="M{x0:.1} {y0:.1}C{x0:.1} {:.1} {x1:.1} {:.1} {x1:.1} {y1:.1}" fill="none" stroke="#777777" stroke-opacity="0.7" marker-end="url(#arrow)"/>"##,
        y0 + bend,
        y1 - bend
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
