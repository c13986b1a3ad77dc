//! The text of a label file: `class cx cy w h` a line, as shares of the image, or a class and a polygon, or a class, a
//! box and keypoints. Trainers read it, and the scheduler counts what is marked by the same rules. Must not know: files.

use std::collections::HashSet;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Bad rows of a file that are reported one by one; the others are counted.
const MAX_ROWS: usize = 20;

/// How the rows of a data set's label files are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelRules {
    /// Number of classes: class ids are below this.
    pub classes: usize,
    /// Whether every class counts as 0, whatever the file says.
    pub single_class: bool,
    /// `kpt_shape` of the data.yaml, where rows are class, box and keypoints: `[keypoints of an object, numbers of each]`.
    pub keypoints: Option<[usize; 2]>,
}

/// One labelled object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Label {
    /// Class id, below the number of classes.
    pub class: u32,
    /// Centre and size as shares of the image's width and height, `[cx, cy, w, h]`, each in `[0, 1]`.
    pub cxcywh: [f32; 4],
}

/// What a label file holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LabelFile {
    /// The objects, in file order, without duplicates.
    pub labels: Vec<Label>,
    /// What was made of odd rows.
    pub rows: RowCounts,
}

/// How many rows of label files were read otherwise than as a box inside the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RowCounts {
    /// Number of rows dropped because they repeat another row of their file exactly.
    pub duplicates: usize,
    /// Number of rows dropped because their box has no area.
    pub empty_boxes: usize,
    /// Number of rows that are polygons; the box around each was taken.
    pub polygons: usize,
    /// Number of rows of four points, as of oriented boxes; the upright box around each was taken.
    pub four_corners: usize,
    /// Number of rows of a box and keypoints; the box of each was taken.
    pub keypoints: usize,
    /// Number of rows with a value a little outside 0 to 1, which was taken as 0 or 1.
    pub clipped: usize,
}

impl AddAssign for RowCounts {
    fn add_assign(&mut self, other: Self) {
        let Self { duplicates, empty_boxes, polygons, four_corners, keypoints, clipped } = other;
        self.duplicates += duplicates;
        self.empty_boxes += empty_boxes;
        self.polygons += polygons;
        self.four_corners += four_corners;
        self.keypoints += keypoints;
        self.clipped += clipped;
    }
}

/// The rows for which a label file cannot be used.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BadRows {
    /// What is wrong with the first of the rows, in file order.
    pub first: Vec<LabelError>,
    /// Number of bad rows beyond `first`.
    pub more: usize,
    /// Number of rows with a value outside the image.
    pub out_of_range: usize,
    /// Whether a row has a class that the data set does not have.
    pub wrong_class: bool,
}

impl BadRows {
    fn add(&mut self, error: LabelError) {
        self.out_of_range += usize::from(matches!(error, LabelError::Coordinate { .. }));
        self.wrong_class |= matches!(error, LabelError::Class { .. });
        if self.first.len() < MAX_ROWS {
            self.first.push(error);
        } else {
            self.more += 1;
        }
    }
}

/// Why a row cannot be used. Lines are numbered from 1; the text leaves the line to the caller.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LabelError {
    /// The labels belong to another data.yaml; training on them would teach nonsense.
    #[error(
        "class {class} is out of range; the data set has {classes} classes, 0 to {}",
        classes - 1
    )]
    Class {
        /// The row's line, from 1.
        line: usize,
        /// The class id of the row.
        class: u64,
        /// How many classes there are.
        classes: usize,
    },
    /// A column is not a number.
    #[error("`{word}` is not a number{}", advice(word))]
    Number {
        /// The row's line, from 1.
        line: usize,
        /// The word as it is written.
        word: String,
    },
    /// The number of columns is neither that of a box nor that of a polygon.
    #[error("{columns} columns; expected `class cx cy w h`, or a class and 3 or more points{}", columns_advice(*columns))]
    Columns {
        /// The row's line, from 1.
        line: usize,
        /// Columns of the row.
        columns: usize,
    },
    /// The number of columns is neither that of a box nor that of a box with as many keypoints as the data.yaml says.
    #[error(
        "{columns} columns; expected {} with `kpt_shape: [{points}, {each}]` (class, box, keypoints), or 5",
        5 + points * each
    )]
    Keypoints {
        /// The row's line, from 1.
        line: usize,
        /// Columns of the row.
        columns: usize,
        /// Keypoints of an object.
        points: usize,
        /// Numbers of a keypoint.
        each: usize,
    },
    /// Columns are separated by something else than blanks.
    #[error("columns are separated by `{by}`; write blanks: `0 0.5 0.5 0.2 0.1`")]
    Separator {
        /// The row's line, from 1.
        line: usize,
        /// The character between two columns.
        by: char,
    },
    /// A coordinate is outside of the image.
    #[error("{value} is outside 0 to 1; coordinates are shares of the image's size")]
    Coordinate {
        /// The row's line, from 1.
        line: usize,
        /// The coordinate as it is written.
        value: f32,
    },
    /// A class id is no whole number.
    #[error("the class id `{word}` is not a whole number from 0{}", class_advice(word))]
    ClassId {
        /// The row's line, from 1.
        line: usize,
        /// The word as it is written.
        word: String,
    },
}

impl LabelError {
    /// The line that is wrong, from 1.
    pub fn line(&self) -> usize {
        match self {
            Self::Class { line, .. }
            | Self::Number { line, .. }
            | Self::Columns { line, .. }
            | Self::Keypoints { line, .. }
            | Self::Separator { line, .. }
            | Self::Coordinate { line, .. }
            | Self::ClassId { line, .. } => *line,
        }
    }
}

/// What may be meant by a word that is no number.
fn advice(word: &str) -> String {
    let pointed = word.replace(',', ".");
    if word.ends_with([',', ';']) {
        "; write only blanks between columns".to_owned()
    } else if pointed != word && pointed.parse::<f32>().is_ok() {
        format!("; write a point: `{pointed}`")
    } else {
        String::new()
    }
}

/// What may be meant by a class id that is none.
fn class_advice(word: &str) -> &'static str {
    if word.contains(char::is_alphabetic) {
        "; write the class's place in `names`, which begins at 0"
    } else {
        ""
    }
}

/// What may be meant by a number of columns that is neither a box's nor a polygon's.
const fn columns_advice(columns: usize) -> &'static str {
    match columns {
        6 => "; a sixth is often a confidence, which labels do not have",
        0..=6 => "",
        _ => "; if these are keypoints, say so by `kpt_shape` in the data.yaml",
    }
}

/// What a row describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Box,
    Polygon,
    FourCorners,
    Keypoints,
}

/// A row that can be used.
struct Row {
    label: Label,
    shape: Shape,
    is_clipped: bool,
}

/// The labels of one file, without those that repeat another.
#[derive(Default)]
struct Distinct {
    labels: Vec<Label>,
    /// All of them, once they are too many to be compared one by one.
    known: HashSet<(u32, [u32; 4])>,
}

impl Distinct {
    /// Labels that are compared one by one; nearly all files have fewer.
    const FEW: usize = 64;

    /// Adds a label; `false` for one that is there already.
    fn add(&mut self, label: Label) -> bool {
        // Zero has two forms.
        let key = |label: &Label| (label.class, label.cxcywh.map(|share| (share + 0.0).to_bits()));
        let is_new = if self.labels.len() < Self::FEW {
            !self.labels.contains(&label)
        } else {
            if self.known.is_empty() {
                self.known = self.labels.iter().map(key).collect();
            }
            self.known.insert(key(&label))
        };
        if is_new {
            self.labels.push(label);
        }
        is_new
    }
}

/// Parses the text of a label file. Blank lines are skipped.
///
/// # Errors
/// When there are rows that cannot be used; no part of the file is used then.
pub fn parse(text: &str, rules: &LabelRules) -> Result<LabelFile, BadRows> {
    let (mut rows, mut bad, mut found) = (RowCounts::default(), BadRows::default(), Distinct::default());
    let mut words = Vec::new();
    for (index, row) in text.lines().enumerate() {
        words.clear();
        words.extend(row.split_ascii_whitespace());
        if words.is_empty() {
            continue;
        }
        match parse_row(&words, index + 1, rules) {
            Ok(Row { label, shape, is_clipped }) => {
                match shape {
                    Shape::Box => {}
                    Shape::Polygon => rows.polygons += 1,
                    Shape::FourCorners => rows.four_corners += 1,
                    Shape::Keypoints => rows.keypoints += 1,
                }
                rows.clipped += usize::from(is_clipped);
                if label.cxcywh[2] <= 0.0 || label.cxcywh[3] <= 0.0 {
                    rows.empty_boxes += 1;
                } else if !found.add(label) {
                    rows.duplicates += 1;
                }
            }
            Err(error) => bad.add(error),
        }
    }
    if bad.first.is_empty() { Ok(LabelFile { labels: found.labels, rows }) } else { Err(bad) }
}

/// What a row describes, by its number of columns. A data set with keypoints may have plain boxes, too, for objects
/// whose points nobody marked; it has no polygons.
fn shape_of(words: &[&str], line: usize, rules: &LabelRules) -> Result<Shape, LabelError> {
    let columns = words.len();
    match (columns, rules.keypoints) {
        (5, _) => Ok(Shape::Box),
        (1, _) if words[0].contains([',', ';']) => {
            let by = if words[0].contains(';') { ';' } else { ',' };
            Err(LabelError::Separator { line, by })
        }
        (_, Some([points, each])) if columns == 5 + points * each => Ok(Shape::Keypoints),
        (_, Some([points, each])) => Err(LabelError::Keypoints { line, columns, points, each }),
        (9, None) => Ok(Shape::FourCorners),
        (7.., None) if !columns.is_multiple_of(2) => Ok(Shape::Polygon),
        (_, None) => Err(LabelError::Columns { line, columns }),
    }
}

fn parse_row(words: &[&str], line: usize, rules: &LabelRules) -> Result<Row, LabelError> {
    let shape = shape_of(words, line, rules)?;
    let class = parse_class(words[0], line)?;
    let &LabelRules { classes, single_class, .. } = rules;
    if !single_class && class >= classes as u64 {
        return Err(LabelError::Class { line, class, classes });
    }
    let class = if single_class { 0 } else { u32::try_from(class).unwrap_or(u32::MAX) };
    let mut is_clipped = false;
    let mut share = |word: &str| -> Result<f32, LabelError> {
        let value = parse_share(word, line)?;
        is_clipped |= !(0.0..=1.0).contains(&value);
        Ok(value.clamp(0.0, 1.0))
    };
    let cxcywh = match shape {
        Shape::Box | Shape::Keypoints => {
            // Keypoints are not learnt, so it does not matter where they are.
            words[5..].iter().try_for_each(|word| parse_number(word, line).map(drop))?;
            [share(words[1])?, share(words[2])?, share(words[3])?, share(words[4])?]
        }
        Shape::Polygon | Shape::FourCorners => {
            bounding_box(&words[1..].iter().map(|word| share(word)).collect::<Result<Vec<_>, _>>()?)
        }
    };
    Ok(Row { label: Label { class, cxcywh }, shape, is_clipped })
}

fn parse_number(word: &str, line: usize) -> Result<f32, LabelError> {
    word.parse().map_err(|_| LabelError::Number { line, word: word.to_owned() })
}

/// Class ids are whole numbers, but some tools write them as `3.0`.
fn parse_class(word: &str, line: usize) -> Result<u64, LabelError> {
    let wrong = || LabelError::ClassId { line, word: word.to_owned() };
    // `0,` is one with a comma behind it.
    let no_number = || LabelError::Number { line, word: word.to_owned() };
    let number: f64 =
        word.parse().map_err(|_| if word.ends_with([',', ';']) { no_number() } else { wrong() })?;
    if number >= 0.0 && number.fract() == 0.0 && number < 1e15 { Ok(number as u64) } else { Err(wrong()) }
}

/// Rounding in labelling tools makes values slightly above 1; up to 1.01 they are as good as 1.
fn parse_share(word: &str, line: usize) -> Result<f32, LabelError> {
    let value = parse_number(word, line)?;
    // Not-a-number is outside, too.
    if !(-0.01..=1.01).contains(&value) {
        return Err(LabelError::Coordinate { line, value });
    }
    Ok(value)
}

/// The box around a polygon `x y x y …`.
fn bounding_box(points: &[f32]) -> [f32; 4] {
    let (mut low, mut high) = ([f32::INFINITY; 2], [f32::NEG_INFINITY; 2]);
    for point in points.chunks_exact(2) {
        for axis in 0..2 {
            low[axis] = low[axis].min(point[axis]);
            high[axis] = high[axis].max(point[axis]);
        }
    }
    [(low[0] + high[0]) / 2.0, (low[1] + high[1]) / 2.0, high[0] - low[0], high[1] - low[1]]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, classes: usize, single_class: bool) -> Result<LabelFile, BadRows> {
        super::parse(text, &LabelRules { classes, single_class, keypoints: None })
    }

    #[test]
    fn where_the_data_set_has_keypoints_rows_are_boxes_and_points_and_never_polygons() {
        let parse = |text: &str, shape| {
            super::parse(text, &LabelRules { classes: 2, single_class: false, keypoints: Some(shape) })
        };
        // As a polygon this would be all of the image.
        let row = "1 0.5 0.5 0.2 0.1 0 0 1 0 1 1 0 2\n0 .1 .1 .1 .1\n";
        let file = parse(row, [4, 2]).unwrap();
        assert_eq!(file.labels[0], Label { class: 1, cxcywh: [0.5, 0.5, 0.2, 0.1] });
        assert_eq!(
            (file.labels.len(), file.rows.keypoints, file.rows.polygons, file.rows.four_corners),
            (2, 1, 0, 0)
        );
        let error = |text: &str, shape| parse(text, shape).unwrap_err().first.remove(0).to_string();
        assert_eq!(
            error(row, [5, 3]),
            "13 columns; expected 20 with `kpt_shape: [5, 3]` (class, box, keypoints), or 5"
        );
        assert_eq!(error("0 .5 .5 .1 .1 x .5", [1, 2]), "`x` is not a number");
        assert_eq!(error("0 .1 .1 .2 .1 .2 .2", [4, 2]).split(';').next(), Some("7 columns"));
    }

    #[test]
    fn a_row_of_four_points_is_told_apart_from_other_polygons() {
        let file = parse("0 .1 .2 .3 .1 .4 .3 .2 .4\n0 .1 .1 .3 .1 .3 .5\n", 1, false).unwrap();
        assert_eq!((file.rows.four_corners, file.rows.polygons), (1, 1));
    }

    #[test]
    fn boxes_polygons_and_blank_lines_are_read() {
        let text = "1 0.5 0.5 0.2 0.1\n\n0 0.1 0.1 0.3 0.1 0.3 0.5\r\n1.0 1.005 0.5 0.1 0.1";
        let file = parse(text, 2, false).unwrap();
        let close =
            |left: [f32; 4], right: [f32; 4]| left.iter().zip(right).all(|(a, b)| (a - b).abs() < 1e-6);
        assert_eq!(file.labels[0], Label { class: 1, cxcywh: [0.5, 0.5, 0.2, 0.1] });
        assert!(close(file.labels[1].cxcywh, [0.2, 0.3, 0.2, 0.4]), "{:?}", file.labels[1]);
        assert_eq!((file.labels[2].cxcywh[0], file.rows.polygons, file.rows.clipped), (1.0, 1, 1));
    }

    #[test]
    fn duplicates_and_empty_boxes_are_dropped_and_counted() {
        let text = "0 .5 .5 .2 .2\n0 .5 .5 .2 .2\n0 .5 .5 .2 0\n1 .5 .5 .2 .2\n";
        let file = parse(text, 2, false).unwrap();
        assert_eq!((file.labels.len(), file.rows.duplicates, file.rows.empty_boxes), (2, 1, 1));
        assert_eq!(parse(text, 1, true).unwrap().rows.duplicates, 2);
    }

    #[test]
    fn of_many_rows_each_is_taken_once_as_of_few() {
        // Zero has two forms.
        let zero = |number: usize| if number.is_multiple_of(2) { "0" } else { "-0" };
        let row = |number: usize| format!("0 0.{number:06} .5 .1 .1\n0 .5 {} .1 .1\n", zero(number));
        let text: String = (1..=2000).chain(1..=2000).map(row).collect();
        let file = parse(&text, 1, false).unwrap();
        assert_eq!((file.labels.len(), file.rows.duplicates), (2001, 2 * 4000 - 2001));
    }

    #[test]
    fn a_bad_line_is_named_by_its_number() {
        let error = |text| {
            let error = parse(text, 3, false).unwrap_err().first.remove(0);
            format!("line {}: {error}", error.line())
        };
        assert!(
            error("0 .5 .5 .2 .2\n3 .5 .5 .2 .2")
                .starts_with("line 2: class 3 is out of range; the data set has 3")
        );
        assert!(error("0 .5 x .2 .2").starts_with("line 1: `x` is not a number"));
        assert!(error("0 .5 .5 .2").starts_with("line 1: 4 columns"));
        assert!(error("0 .5 .5 .2 .2 .1").starts_with("line 1: 6 columns"));
        assert!(
            error("0 .5 .5 .2 .2 .1").ends_with("a sixth is often a confidence, which labels do not have")
        );
        assert!(error("0 .5 .5 .2 .2 .1 .1 .1").contains("if these are keypoints, say so by `kpt_shape`"));
        assert!(error("0 0,5 0,5 0,2 0,2").ends_with("`0,5` is not a number; write a point: `0.5`"));
        assert!(error("0,0.5,0.5,0.2,0.2").contains("columns are separated by `,`; write blanks"));
        assert!(
            error("0, 0.5, 0.5, 0.2, 0.2")
                .ends_with("`0,` is not a number; write only blanks between columns")
        );
        assert!(error("0;0,5;0,5;0,2;0,2").contains("columns are separated by `;`; write blanks"));
        assert!(error("0 50 50 20 20").starts_with("line 1: 50 is outside 0 to 1"));
        assert!(error("0 .5 .5 NaN .2").contains("outside"));
        assert!(error("-1 .5 .5 .2 .2").contains("`-1` is not a whole number"));
        assert!(
            error("disc .5 .5 .2 .2")
                .contains("`disc` is not a whole number from 0; write the class's place")
        );
        assert!(error("0.5 .5 .5 .2 .2").contains("`0.5` is not a whole number"));
    }

    #[test]
    fn every_bad_row_is_told_up_to_a_number() {
        let text = "0 .5 .5 .2 7\n0 .5 .5 .2 .2\n9 .5 .5 .2 .2\n0 x .5 .2 .2\n";
        let bad = parse(text, 3, false).unwrap_err();
        assert_eq!(bad.first.iter().map(LabelError::line).collect::<Vec<_>>(), [1, 3, 4]);
        assert_eq!((bad.more, bad.out_of_range, bad.wrong_class), (0, 1, true));
        let bad = parse(&"0 .5 .5 .2 7\n".repeat(30), 3, false).unwrap_err();
        assert_eq!((bad.first.len(), bad.more, bad.out_of_range, bad.wrong_class), (20, 10, 30, false));
    }
}
