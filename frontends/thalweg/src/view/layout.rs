//! Where boxes go: layers from top to bottom, scopes as boxes of their own.
//!
//! The layout is recursive (after Sander, "Layout of compound directed graphs", 1996, simplified): the boxes and scopes within
//! one scope are items of a small graph that is layered by itself (Sugiyama, Tagawa, Toda, 1981) and then is one item of the
//! scope around it. So the boxes of scopes never overlap. Arrows between scopes can run against each other; those that go back
//! in the order of the graph are ignored when layers are made.

use super::Picture;
use std::collections::BTreeMap;

/// Pixels of one character, near enough for a sans-serif font of 11 pixels.
const CHARACTER: f64 = 6.4;
const BOX_HEIGHT: f64 = 36.0;
const GAP_X: f64 = 18.0;
const GAP_Y: f64 = 34.0;
const MARGIN: f64 = 14.0;
const LABEL: f64 = 18.0;

/// Sweeps that bring connected items above each other; the picture changes little after the first few.
const SWEEPS: usize = 4;

/// A rectangle.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Rectangle {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

/// Where everything is.
pub(super) struct Layout {
    /// The boxes, in the order of the picture.
    pub boxes: Vec<Rectangle>,
    /// The scopes with their names, outer ones first.
    pub scopes: Vec<(String, Rectangle)>,
    pub width: f64,
    pub height: f64,
}

/// What is inside of a scope.
#[derive(Default)]
struct Scope {
    boxes: Vec<usize>,
    scopes: BTreeMap<String, Scope>,
}

/// Something that is placed as a whole.
struct Item {
    /// The lowest number of a box in it, which orders items as the graph does.
    first: usize,
    rectangle: Rectangle,
    content: Content,
}

enum Content {
    Box(usize),
    Scope(String, Vec<Item>),
}

pub(super) fn layout(picture: &Picture) -> Layout {
    let mut root = Scope::default();
    for (at, shown) in picture.boxes.iter().enumerate() {
        let scope =
            shown.scope.iter().fold(&mut root, |scope, name| scope.scopes.entry(name.clone()).or_default());
        scope.boxes.push(at);
    }
    // Which item of the scope in hand a box belongs to; each level of the recursion writes the boxes inside it.
    let mut owner = vec![usize::MAX; picture.boxes.len()];
    let (items, width, height) = place(&root, picture, &mut owner);
    let mut layout =
        Layout { boxes: vec![Rectangle::default(); picture.boxes.len()], scopes: Vec::new(), width, height };
    flatten(items, 0.0, 0.0, &mut layout);
    layout
}

/// Adds what items hold to a layout, moved by `(x, y)`.
fn flatten(items: Vec<Item>, x: f64, y: f64, layout: &mut Layout) {
    for Item { rectangle, content, .. } in items {
        let rectangle = Rectangle { x: rectangle.x + x, y: rectangle.y + y, ..rectangle };
        match content {
            Content::Box(at) => layout.boxes[at] = rectangle,
            Content::Scope(name, inner) => {
                layout.scopes.push((name, rectangle));
                flatten(inner, rectangle.x, rectangle.y + LABEL, layout);
            }
        }
    }
}

/// Places what is in a scope; gives the items and the size that they take, margins included.
fn place(scope: &Scope, picture: &Picture, owner: &mut [usize]) -> (Vec<Item>, f64, f64) {
    let mut items: Vec<Item> = scope.boxes.iter().map(|at| box_item(*at, picture)).collect();
    let mut members: Vec<Vec<usize>> = scope.boxes.iter().map(|at| vec![*at]).collect();
    for (name, inner) in &scope.scopes {
        let (content, width, height) = place(inner, picture, owner);
        let width = width.max(name.chars().count() as f64 * CHARACTER + 2.0 * MARGIN);
        let inside = all_boxes(inner);
        let rectangle = Rectangle { x: 0.0, y: 0.0, width, height: height + LABEL };
        let first = inside.iter().copied().min().unwrap_or(usize::MAX);
        items.push(Item { first, rectangle, content: Content::Scope(name.clone(), content) });
        members.push(inside);
    }
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|item| items[*item].first);
    let mut rank = vec![0; items.len()];
    for (position, item) in order.iter().enumerate() {
        rank[*item] = position;
    }
    let mut sorted: Vec<Option<Item>> = items.into_iter().map(Some).collect();
    let mut items: Vec<Item> =
        order.iter().map(|item| sorted[*item].take().expect("each stands once")).collect();
    for (item, inside) in members.iter().enumerate() {
        for at in inside {
            owner[*at] = rank[item];
        }
    }
    let inside: Vec<bool> = {
        let mut inside = vec![false; picture.boxes.len()];
        members.iter().flatten().for_each(|at| inside[*at] = true);
        inside
    };
    let mut edges: Vec<(usize, usize)> = picture
        .arrows
        .iter()
        .filter(|(from, to)| inside[*from] && inside[*to])
        .map(|(from, to)| (owner[*from], owner[*to]))
        .filter(|(from, to)| from < to)
        .collect();
    edges.sort_unstable();
    edges.dedup();
    let (width, height) = arrange(&mut items, &edges);
    (items, width, height)
}

fn box_item(at: usize, picture: &Picture) -> Item {
    let shown = &picture.boxes[at];
    let longest = shown.title.chars().count().max(shown.detail.chars().count());
    let width = longest as f64 * CHARACTER + 16.0;
    Item {
        first: at,
        rectangle: Rectangle { x: 0.0, y: 0.0, width, height: BOX_HEIGHT },
        content: Content::Box(at),
    }
}

fn all_boxes(scope: &Scope) -> Vec<usize> {
    let inner = scope.scopes.values().flat_map(all_boxes);
    scope.boxes.iter().copied().chain(inner).collect()
}

/// Gives items their places, for edges that go from lower to higher numbers; gives the size that they take.
fn arrange(items: &mut [Item], edges: &[(usize, usize)]) -> (f64, f64) {
    let mut above: Vec<Vec<usize>> = vec![Vec::new(); items.len()];
    let mut below: Vec<Vec<usize>> = vec![Vec::new(); items.len()];
    for (from, to) in edges {
        above[*to].push(*from);
        below[*from].push(*to);
    }
    let mut layer = vec![0usize; items.len()];
    for item in 0..items.len() {
        layer[item] = above[item].iter().map(|from| layer[*from] + 1).max().unwrap_or(0);
    }
    // What nothing is above of, such as a parameter, goes right above its first user.
    for item in (0..items.len()).rev() {
        if above[item].is_empty() {
            layer[item] =
                below[item].iter().map(|to| layer[*to]).min().map_or(0, |first| first.saturating_sub(1));
        }
    }
    let count = layer.iter().max().map_or(0, |last| last + 1);
    let mut layers: Vec<Vec<usize>> = vec![Vec::new(); count];
    (0..items.len()).for_each(|item| layers[layer[item]].push(item));
    let mut center = vec![0.0; items.len()];
    for members in &layers {
        spread(members, items, &mut center);
    }
    for sweep in 0..SWEEPS {
        let down = sweep % 2 == 0;
        let neighbours = if down { &above } else { &below };
        for step in 0..count {
            let members = &mut layers[if down { step } else { count - 1 - step }];
            let mean = |item: usize| match neighbours[item].len() {
                0 => center[item],
                all => neighbours[item].iter().map(|other| center[*other]).sum::<f64>() / all as f64,
            };
            let wanted: BTreeMap<usize, f64> = members.iter().map(|item| (*item, mean(*item))).collect();
            members.sort_by(|a, b| wanted[a].total_cmp(&wanted[b]).then(a.cmp(b)));
            spread(members, items, &mut center);
            let shift =
                members.iter().map(|item| wanted[item] - center[*item]).sum::<f64>() / members.len() as f64;
            members.iter().for_each(|item| center[*item] += shift);
        }
    }
    let left = |item: usize, center: &[f64]| center[item] - items[item].rectangle.width / 2.0;
    let least = (0..items.len()).map(|item| left(item, &center)).fold(f64::INFINITY, f64::min);
    let lefts: Vec<f64> = (0..items.len()).map(|item| left(item, &center) - least + MARGIN).collect();
    let mut y = MARGIN;
    let mut width: f64 = 0.0;
    for members in &layers {
        let height = members.iter().map(|item| items[*item].rectangle.height).fold(0.0, f64::max);
        for item in members {
            let rectangle = &mut items[*item].rectangle;
            rectangle.x = lefts[*item];
            rectangle.y = y + (height - rectangle.height) / 2.0;
            width = width.max(rectangle.x + rectangle.width);
        }
        y += height + GAP_Y;
    }
    (width + MARGIN, (y - GAP_Y + MARGIN).max(2.0 * MARGIN))
}

/// Places the items of a layer side by side around 0, in their order.
fn spread(members: &[usize], items: &[Item], center: &mut [f64]) {
    let total: f64 = members.iter().map(|item| items[*item].rectangle.width + GAP_X).sum();
    let mut x = -total / 2.0;
    for item in members {
        let width = items[*item].rectangle.width + GAP_X;
        center[*item] = x + width / 2.0;
        x += width;
    }
}
