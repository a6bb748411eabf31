//! Two kinds of plots, as SVG: dots and lines. Times are on logarithmic axes, so that equal ratios look
//! equal. Hence dots and not bars, whose lengths would mislead.

use std::fmt::Write;

pub(crate) struct Dots<'a> {
    pub(crate) title: &'a str,
    pub(crate) unit: &'a str,
    pub(crate) rows: Vec<(String, f64)>,
}

pub(crate) struct Lines<'a> {
    pub(crate) title: &'a str,
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    pub(crate) series: Vec<Series>,
}

pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 760.0;
/// Space for names on the left of dots.
const NAMES: f64 = 170.0;
/// Space for a number after the last dot, and for names on the right of lines.
const RIGHT: f64 = 150.0;
const TOP: f64 = 44.0;
const ROW: f64 = 26.0;
/// Ours first.
const COLOURS: [&str; 5] = ["#c0392b", "#2c6fbb", "#7f8c8d", "#8e6bb0", "#4a9a63"];

/// An SVG that is being written.
struct Svg(String);

impl Svg {
    fn new(height: f64, title: &str) -> Self {
        let mut svg = Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n"
        ));
        svg.text(
            12.0,
            22.0,
            "start",
            &format!("<tspan font-size=\"15\">{}</tspan>", escape(title)),
        );
        svg
    }

    fn push(&mut self, element: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{element}").expect("strings take everything");
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        self.push(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#222\">{text}</text>"
        ));
    }

    fn line(&mut self, [x1, y1, x2, y2]: [f64; 4], colour: &str) {
        self.push(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"
        ));
    }

    fn finish(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// From values to pixels, logarithmically.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// From the power of ten at or below the values to `high`.
    fn over(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let low = values.clone().fold(f64::INFINITY, f64::min).max(0.1);
        let high = values.fold(low, f64::max) * 1.05;
        Self { low: 10_f64.powf(low.log10().floor()).min(high / 2.0), high, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        let part = (value.max(self.low) / self.low).ln() / (self.high / self.low).ln();
        self.from + part * (self.to - self.from)
    }

    /// Powers of ten, and between them where there are few.
    fn ticks(&self) -> Vec<f64> {
        let few = self.high / self.low < 1_000.0;
        let steps: &[f64] = if few { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let powers = -1..=12;
        powers
            .flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)))
            .filter(|tick| (self.low..=self.high).contains(tick))
            .collect()
    }
}

/// With as many digits as it needs, and thousands apart.
fn number(value: f64) -> String {
    if value < 10.0 && value.fract() != 0.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

impl Dots<'_> {
    pub(crate) fn to_svg(&self) -> String {
        let bottom = TOP + ROW * self.rows.len() as f64;
        let mut svg = Svg::new(bottom + 48.0, self.title);
        let values = self.rows.iter().map(|(_, value)| *value);
        let axis = Axis::over(values, NAMES, WIDTH - RIGHT / 2.0);
        for tick in axis.ticks() {
            let x = axis.at(tick);
            svg.line([x, TOP - 6.0, x, bottom], "#ddd");
            svg.text(x, bottom + 16.0, "middle", &number(tick));
        }
        for (row, (name, value)) in self.rows.iter().enumerate() {
            let y = TOP + ROW * row as f64;
            let colour = if name.contains("cloakroom") { COLOURS[0] } else { COLOURS[1] };
            let (x, middle) = (axis.at(*value), y + ROW / 2.0 - 4.0);
            svg.line([NAMES, middle, x, middle], "#ddd");
            svg.push(format_args!(
                "<circle cx=\"{x:.1}\" cy=\"{middle:.1}\" r=\"5\" fill=\"{colour}\"/>"
            ));
            svg.text(NAMES - 8.0, y + 13.0, "end", &escape(name));
            svg.text(x + 10.0, y + 13.0, "start", &number(*value));
        }
        svg.text(NAMES, bottom + 36.0, "start", &escape(self.unit));
        svg.finish()
    }
}

impl Lines<'_> {
    /// The points of a series are at equal distances: their numbers grow by factors, and may begin at 0.
    pub(crate) fn to_svg(&self) -> String {
        const HEIGHT: f64 = 380.0;
        let (left, right, bottom) = (70.0, WIDTH - RIGHT, HEIGHT - 56.0);
        let mut svg = Svg::new(HEIGHT, self.title);
        let points = self.series.iter().flat_map(|series| &series.points);
        let axis = Axis::over(points.map(|(_, y)| *y), bottom, TOP);
        for tick in axis.ticks() {
            let y = axis.at(tick);
            svg.line([left, y, right, y], "#ddd");
            svg.text(left - 8.0, y + 4.0, "end", &number(tick));
        }
        let mut xs: Vec<f64> =
            self.series.iter().flat_map(|series| &series.points).map(|(x, _)| *x).collect();
        xs.sort_unstable_by(f64::total_cmp);
        xs.dedup();
        let step = (right - left - 60.0) / (xs.len().max(2) - 1) as f64;
        let x_at = |x: f64| {
            let place = xs.iter().position(|known| *known == x).unwrap_or(0);
            left + 30.0 + step * place as f64
        };
        for x in &xs {
            svg.text(x_at(*x), bottom + 18.0, "middle", &number(*x));
        }
        let mut lowest_name = f64::NEG_INFINITY;
        let mut by_height: Vec<(usize, &Series)> = self.series.iter().enumerate().collect();
        let last = |series: &Series| series.points.last().map_or(0.0, |(_, y)| *y);
        by_height.sort_by(|a, b| last(b.1).total_cmp(&last(a.1)));
        for (number, series) in by_height {
            let colour = COLOURS[number % COLOURS.len()];
            let at: Vec<(f64, f64)> =
                series.points.iter().map(|(x, y)| (x_at(*x), axis.at(*y))).collect();
            let path: String = at.iter().map(|(x, y)| format!("{x:.1},{y:.1} ")).collect();
            svg.push(format_args!(
                "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
            ));
            for (x, y) in &at {
                svg.push(format_args!(
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"
                ));
            }
            if let Some((x, y)) = at.last() {
                // From the top down, so that no two names overlap.
                lowest_name = (y + 4.0).max(lowest_name + 14.0);
                svg.text(x + 10.0, lowest_name, "start", &escape(&series.name));
            }
        }
        svg.text((left + right) / 2.0, HEIGHT - 14.0, "middle", &escape(self.x));
        svg.text(left - 58.0, TOP - 6.0, "start", &escape(self.y));
        svg.finish()
    }
}
