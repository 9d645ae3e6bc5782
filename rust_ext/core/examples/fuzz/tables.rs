//! Small valid tables to be spoilt, as text, gzip and Parquet.

use super::random::Random;
use arrow_array::{ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression as Codec;
use parquet::file::properties::{WriterProperties, WriterVersion};
use std::error::Error;
use std::io::Write;
use std::sync::Arc;

/// Visits that are known, each at its own place.
pub const VISITS: [i64; 5] = [7, 3, 900, 12, 20_000_001];
pub const LABS: [i64; 2] = [50_912, 50_931];

/// How a table is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Values of labs that are whole numbers.
    Numbered,
    /// Values of labs named by two texts.
    Named,
    /// Codes named by two texts.
    Coded,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Numbered, Self::Named, Self::Coded];

    /// The wanted columns: what names the lab or code, the value, the visit.
    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Numbered => &["itemid", "valuenum", "hadm_id"],
            Self::Named => &["label", "unit", "valuenum", "hadm_id"],
            Self::Coded => &["label", "unit", "hadm_id"],
        }
    }

    /// Columns that name the lab or code.
    pub fn parts(self) -> usize {
        if self == Self::Numbered { 1 } else { 2 }
    }
}

const HEADER: [&str; 6] = ["comments", "hadm_id", "itemid", "valuenum", "label", "unit"];
const COMMENTS: [&str; 6] = ["", "a,b", "say \"hi\"", "two\nlines", "é, 5\" tube", "x\n,\"y"];
const IDS: [&str; 8] = ["", "7", "3", "900", "12", "44", "7.0", "20000001"];
const ITEMS: [&str; 4] = ["", "50912", "50931", "1"];
const NUMBERS: [&str; 14] = [
    "",
    "0",
    "-0.5",
    "7.",
    "1e3",
    "0.1",
    "0.2",
    "0.30000000000000004",
    "12.25",
    "140",
    "___",
    "NaN",
    "1e22",
    "-3",
];
const NAMES: [&str; 5] = ["", "Creatinine", "I50 ", "Sodium, serum", "µ"];
const UNITS: [&str; 4] = ["", "mg/dL", "10", "9"];

/// A table's cells, row by row, in the order of `HEADER`.
pub type Cells = Vec<[&'static str; 6]>;

pub fn cells(random: &mut Random) -> Cells {
    (0..random.below(30))
        .map(|_| {
            [&COMMENTS[..], &IDS, &ITEMS, &NUMBERS, &NAMES, &UNITS]
                .map(|among| random.choose(among))
        })
        .collect()
}

pub fn text_of(cells: &Cells, random: &mut Random) -> Vec<u8> {
    let end = random.choose(&["\n", "\n", "\r\n"]);
    let mut text = HEADER.join(",") + end;
    for row in cells {
        let quoted = row.map(|cell| {
            if cell.contains([',', '"', '\n']) || random.below(9) == 0 {
                format!("\"{}\"", cell.replace('"', "\"\""))
            } else {
                cell.to_owned()
            }
        });
        text = text + &quoted.join(",") + end;
    }
    text.into_bytes()
}

/// The text as gzip, in one member or two.
pub fn gzip_of(text: &[u8], random: &mut Random) -> Result<Vec<u8>, Box<dyn Error>> {
    let cut = if random.below(3) == 0 { random.below(text.len() + 1) } else { text.len() };
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(random.below(7) as u32));
    encoder.write_all(&text[..cut])?;
    if cut == text.len() {
        return Ok(encoder.finish()?);
    }
    let mut second = GzEncoder::new(encoder.finish()?, Compression::fast());
    second.write_all(&text[cut..])?;
    Ok(second.finish()?)
}

pub fn parquet_of(cells: &Cells, random: &mut Random) -> Result<Vec<u8>, Box<dyn Error>> {
    let float = |text: &str| text.parse::<f64>().ok();
    let texts = |place: usize| -> ArrayRef {
        let known = cells.iter().map(|row| Some(row[place]).filter(|cell| !cell.is_empty()));
        Arc::new(known.collect::<StringArray>())
    };
    let ids = cells.iter().map(|row| float(row[1]).map(|id| id as i64));
    let items = cells.iter().map(|row| row[2].parse().ok());
    let numbers = cells.iter().map(|row| float(row[3]));
    let columns: [ArrayRef; 6] = [
        texts(0),
        Arc::new(ids.collect::<Int64Array>()),
        Arc::new(items.collect::<Int32Array>()),
        if random.below(3) == 0 { texts(3) } else { Arc::new(numbers.collect::<Float64Array>()) },
        texts(4),
        texts(5),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(
        HEADER.into_iter().zip(columns).map(|(n, c)| (n, c, true)),
    )?;
    let versions = [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0];
    let codecs =
        [Codec::UNCOMPRESSED, Codec::SNAPPY, Codec::ZSTD(Default::default()), Codec::LZ4_RAW];
    let properties = WriterProperties::builder()
        .set_compression(codecs[random.below(4)])
        .set_writer_version(versions[random.below(2)])
        .set_dictionary_enabled(random.below(2) == 0)
        .set_max_row_group_row_count(Some(1 + random.below(20)))
        .set_data_page_row_count_limit(1 + random.below(8))
        .set_write_batch_size(4)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties))?;
    writer.write(&batch)?;
    Ok(writer.into_inner()?)
}
