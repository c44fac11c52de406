//! Curves as pictures: SVG that is readable on a dark page and on a light one, drawn from what was just measured.
//!
//! The only thing that a library of charts would take off this is a scale of powers of ten; what a page may be dark or light
//! for, none of them knows.

use std::fmt::Write;
use std::path::Path;

use anyhow::Context;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 52.0;
/// Lines across, at least.
const TICKS: f64 = 5.0;

/// Text and lines take the page's colour; the curves' colours differ in brightness as well, for those who see no hue.
const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#24292f}.title{font-size:15px;font-weight:600}\
.grid{stroke:#d0d7de;stroke-width:1}.curve{fill:none;stroke-width:2.5}\
.s0{stroke:#0550ae;fill:#0550ae}.s1{stroke:#bc4c00;fill:#bc4c00}.s2{stroke:#1a7f37;fill:#1a7f37}.s3{stroke:#8250df;fill:#8250df}.s4{stroke:#6e7781;fill:#6e7781}\
.curve{fill:none}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.grid{stroke:#3d444d}\
.s0{stroke:#79c0ff;fill:#79c0ff}.s1{stroke:#ffa657;fill:#ffa657}.s2{stroke:#7ee787;fill:#7ee787}.s3{stroke:#d2a8ff;fill:#d2a8ff}.s4{stroke:#8b949e;fill:#8b949e}\
.curve{fill:none}}";
/// Of the style above.
const COLOURS: usize = 5;

/// A named curve.
#[derive(Debug)]
pub(crate) struct Series {
    /// What it is.
    pub(crate) name: String,
    /// In order of x.
    pub(crate) points: Vec<(f64, f64)>,
}

/// A picture of curves over a scale of powers of ten.
#[derive(Debug)]
pub(crate) struct Chart {
    /// The file's name without its ending.
    pub(crate) file: String,
    /// Above it.
    pub(crate) title: String,
    /// Below it.
    pub(crate) x: String,
    /// Beside it.
    pub(crate) y: String,
    /// What is drawn.
    pub(crate) series: Vec<Series>,
}

impl Chart {
    /// Writes the picture into a folder.
    pub(crate) fn save(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let file = folder.join(format!("{}.svg", self.file));
        std::fs::write(&file, self.svg()).with_context(|| file.display().to_string())
    }

    fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let least = points().map(|(x, _)| x.log10()).fold(f64::INFINITY, f64::min);
        let most = points().map(|(x, _)| x.log10()).fold(f64::NEG_INFINITY, f64::max);
        let step = step(points().map(|(_, y)| *y).fold(f64::MIN_POSITIVE, f64::max) / TICKS);
        let top = points().map(|(_, y)| *y).fold(step, f64::max);
        let ceiling = (top / step).ceil() * step;
        let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        let at_x = |x: f64| LEFT + width * (x.log10() - least) / (most - least).max(f64::MIN_POSITIVE);
        let at_y = |y: f64| TOP + height * (1.0 - y / ceiling);

        let mut svg = String::new();
        let mut put = |text: std::fmt::Arguments<'_>| {
            // Writing into memory does not fail.
            let _ = svg.write_fmt(text);
        };
        let Self { title, x, y, .. } = self;
        put(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"{title}\">\n<style>{STYLE}</style>\n"
        ));
        put(format_args!("<text class=\"title\" x=\"{LEFT}\" y=\"22\">{title}</text>\n"));
        put(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{x}</text>\n",
            LEFT + width / 2.0,
            HEIGHT - 12.0
        ));
        put(format_args!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{y}</text>\n", LEFT - 10.0, TOP - 14.0));
        let mut line = 0.0;
        while line <= ceiling * 1.000_1 {
            let at = at_y(line);
            put(format_args!("<path class=\"grid\" d=\"M{LEFT} {at:.1}h{width:.1}\"/>"));
            put(format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
                LEFT - 8.0,
                at + 4.5,
                number(line)
            ));
            line += step;
        }
        let mut sizes: Vec<f64> = points().map(|(x, _)| *x).collect();
        sizes.sort_by(f64::total_cmp);
        sizes.dedup();
        for size in sizes {
            let at = at_x(size);
            put(format_args!("<path class=\"grid\" d=\"M{at:.1} {TOP}v{height:.1}\"/>"));
            put(format_args!(
                "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
                HEIGHT - BOTTOM + 18.0,
                number(size)
            ));
        }
        let ends: Vec<f64> =
            self.series.iter().map(|series| series.points.last().map_or(0.0, |(_, y)| at_y(*y))).collect();
        for ((series, label), number) in self.series.iter().zip(apart(&ends)).zip(0..) {
            let colour = number % COLOURS;
            let path: Vec<String> =
                series.points.iter().map(|(x, y)| format!("{:.1} {:.1}", at_x(*x), at_y(*y))).collect();
            put(format_args!("<path class=\"curve s{colour}\" d=\"M{}\"/>", path.join("L")));
            for (x, y) in &series.points {
                put(format_args!(
                    "<circle class=\"s{colour}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\"/>",
                    at_x(*x),
                    at_y(*y)
                ));
            }
            put(format_args!(
                "<circle class=\"s{colour}\" cx=\"{:.1}\" cy=\"{label:.1}\" r=\"4\"/>",
                WIDTH - RIGHT + 18.0
            ));
            put(format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
                WIDTH - RIGHT + 28.0,
                label + 4.5,
                series.name
            ));
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// The next of 1, 2 and 5 times a power of ten.
fn step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| *step >= least).unwrap_or(10.0 * power)
}

/// Labels beside the curves' ends, moved so far that none lies on another.
fn apart(ends: &[f64]) -> Vec<f64> {
    const LINE: f64 = 18.0;
    let mut order: Vec<usize> = (0..ends.len()).collect();
    order.sort_by(|one, other| ends[*one].total_cmp(&ends[*other]));
    let mut places = ends.to_vec();
    let mut free = f64::NEG_INFINITY;
    for place in order {
        places[place] = places[place].max(free);
        free = places[place] + LINE;
    }
    // What was pushed below the picture moves all up.
    let over = (free - LINE - (HEIGHT - BOTTOM)).max(0.0);
    places.iter().map(|place| place - over).collect()
}

/// With a comma at each thousand.
fn number(number: f64) -> String {
    if number.fract() != 0.0 && number < 10.0 {
        return format!("{number:.1}");
    }
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_across_stand_at_round_numbers() {
        assert_eq!([0.7, 1.0, 1.2, 3.0, 80.0].map(step), [1.0, 1.0, 2.0, 5.0, 100.0]);
        assert_eq!([0.5, 7.0, 1_000.0, 1_234_567.0].map(number), ["0.5", "7", "1,000", "1,234,567"]);
    }

    #[test]
    fn labels_do_not_lie_on_each_other() {
        assert_eq!(apart(&[100.0, 200.0]), [100.0, 200.0]);
        assert_eq!(apart(&[105.0, 100.0, 100.0]), [136.0, 100.0, 118.0]);
        let low = apart(&[300.0, 301.0, 302.0]);
        assert!(low.iter().all(|place| *place <= HEIGHT - BOTTOM), "{low:?}");
    }

    #[test]
    fn a_picture_has_every_point_inside() {
        let points = vec![(10.0, 3.0), (100.0, 4.0), (1_000.0, 11.0)];
        let chart = Chart {
            file: "file".to_owned(),
            title: "Title".to_owned(),
            x: "items".to_owned(),
            y: "µs".to_owned(),
            series: vec![Series { name: "sale".to_owned(), points }],
        };
        let svg = chart.svg();
        assert!(svg.contains("M64.0 ") && svg.contains("L490.0 ") && svg.contains(">1,000<"), "{svg}");
        let heights = svg.split("cy=\"").skip(1).filter_map(|rest| rest.split('"').next()?.parse::<f64>().ok());
        assert!(
            heights.clone().count() == 4 && heights.clone().all(|height| (TOP..=HEIGHT - BOTTOM).contains(&height))
        );
    }
}
