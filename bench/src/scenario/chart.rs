//! A bar for each cell: CPU per delivery, on a logarithmic scale, as SVG.

use std::fmt::Write as _;

use super::{cell::Cell, server::Kind};

const LEFT: f64 = 330.0;
const WIDTH: f64 = 520.0;
const ROW: f64 = 20.0;
const TOP: f64 = 44.0;

fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Tidegate | Kind::TidegateTls | Kind::TidegateEtcd | Kind::TidegateSotw => "#1f6feb",
        Kind::Floor => "#8c959f",
        Kind::Naive => "#bf8700",
        Kind::Baseline => "#cf222e",
        Kind::GoLinear => "#1a7f37",
        Kind::GoSnapshot | Kind::GoSnapshotSotw => "#116329",
        Kind::RustControlPlane => "#8250df",
    }
}

/// The chart.
pub fn bars(figures: &[(Cell, f64)]) -> String {
    let most = figures.iter().map(|(_, cpu)| *cpu).fold(10.0, f64::max);
    let decades = most.log10().ceil().max(1.0);
    let x = |value: f64| LEFT + value.max(1.0).log10() / decades * WIDTH;
    let height = TOP + ROW * figures.len() as f64 + 16.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{:.0}\" height=\"{height:.0}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"10\" y=\"20\" \
         font-weight=\"bold\">CPU of the server per delivery and ACK, microseconds (logarithmic)</text>\n",
        LEFT + WIDTH + 90.0
    );
    for decade in 0..=decades as i32 {
        let value = 10f64.powi(decade);
        let at = x(value);
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#d0d7de\"/><text x=\"{at:.1}\" \
             y=\"{:.1}\" text-anchor=\"middle\" fill=\"#57606a\">{value}</text>",
            height - 12.0,
            TOP - 6.0
        );
    }
    for (index, (cell, cpu)) in figures.iter().enumerate() {
        let y = TOP + ROW * index as f64 + 2.0;
        let label =
            format!("{}: {}, N = {}, M = {}", cell.kind.name(), cell.asks.title(), cell.clients, cell.resources);
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text><rect x=\"{LEFT}\" y=\"{y:.1}\" \
             width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/><text x=\"{:.1}\" y=\"{:.1}\">{cpu:.1}</text>",
            LEFT - 6.0,
            y + 12.0,
            (x(*cpu) - LEFT).max(1.0),
            ROW - 5.0,
            colour(cell.kind),
            x(*cpu) + 5.0,
            y + 12.0
        );
    }
    out.push_str("</svg>\n");
    out
}
