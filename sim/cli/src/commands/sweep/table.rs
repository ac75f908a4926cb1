//! The rows of a sweep: Parquet and CSV, and the front.

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{LogicalType, Repetition, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;
use serde_json::Value;

use super::super::run::columns::RUN;
use crate::columns::{Column, Format, Table};
use cptr_sim::sweep::{self, Joined, Kind, MOST_OBJECTIVES, front};
use cptr_trace::error::{Error, Result};
use cptr_trace::file;

/// Rows that are in memory at a time.
const ROWS: usize = 1 << 14;

/// Rows of the front that people see, and that JSON has; the files have all.
const SHOWN: usize = 40;
const PRINTED: usize = 10_000;

/// The column that is there where a front is asked for.
const ON_FRONT: &str = "pareto";

/// What was found.
pub(super) struct Results {
    columns: Vec<sweep::Column>,
    objectives: Vec<sweep::Objective>,
    /// Whether each point is on the front; `None`: none was asked for.
    on_front: Option<Vec<bool>>,
    /// Points on the front, and rows of them, the first objective's best first.
    on: usize,
    rows: Vec<Value>,
    /// Points without a row, and why the first of them has none.
    refusals: (usize, String),
    points: usize,
}

impl Results {
    /// Goes through all points once.
    pub(super) fn of(joined: &mut Joined) -> Result<Self> {
        let (columns, objectives) = (joined.header.columns.clone(), joined.header.objectives.clone());
        let place = |name: &str| columns.iter().position(|column| column.name == name);
        let (refusal, asked) = (place("refusal"), !objectives.is_empty());
        let places: Vec<_> = objectives.iter().map(|objective| (place(&objective.column), objective)).collect();
        let (mut refusals, mut numbers) = ((0, String::new()), Vec::new());
        for point in 0..joined.points() {
            let cells = joined.cells(point)?;
            if let Some(Value::String(why)) = refusal.map(|place| &cells[place]) {
                if refusals.0 == 0 {
                    refusals.1.clone_from(why);
                }
                refusals.0 += 1;
            }
            let mut costs = Some([0.0; MOST_OBJECTIVES]);
            for (slot, (place, objective)) in places.iter().enumerate() {
                let number = place.and_then(|place| cells[place].as_f64());
                costs = costs.zip(number).map(|(mut costs, number)| {
                    costs[slot] = objective.cost(number);
                    costs
                });
            }
            numbers.push(costs);
        }
        let on_front = asked.then(|| front(&numbers));
        let mut on: Vec<usize> =
            (0..numbers.len()).filter(|&point| on_front.as_ref().is_some_and(|on| on[point])).collect();
        on.sort_by(|&a, &b| numbers[a].partial_cmp(&numbers[b]).unwrap_or(std::cmp::Ordering::Equal));
        let row = |point: usize| {
            let cells = joined.cells(point)?;
            Ok(Value::Object(columns.iter().map(|column| column.name.clone()).zip(cells).collect()))
        };
        let count = on.len();
        let rows = on.into_iter().take(PRINTED).map(row).collect::<Result<Vec<Value>>>()?;
        Ok(Self { columns, objectives, on_front, on: count, rows, refusals, points: numbers.len() })
    }

    /// How many points have no row, where there are any.
    pub(super) fn refused(&self) -> Option<String> {
        let (count, first) = &self.refusals;
        (*count > 0).then(|| format!("{} without a row (column refusal), such as: {first}", super::counted(*count)))
    }

    /// What there is to say below the front.
    pub(super) fn remarks(&self) -> Vec<String> {
        let more = self.on.saturating_sub(SHOWN);
        let more = (more > 0).then(|| format!("{more} more points are on the front (column {ON_FRONT})"));
        more.into_iter().collect()
    }

    /// The front as people see it, and as machines do.
    pub(super) fn front(&self) -> (Table, Table) {
        let parameter = |column: &sweep::Column| {
            let name = column.name.strip_prefix("parameter_")?.to_owned();
            let format = if column.kind == Kind::Number { Format::Plain } else { Format::Text };
            Some(Column::of_key(column.name.clone(), name, format))
        };
        let objective = |objective: &sweep::Objective| {
            let of_run = RUN.iter().find(|column| column.key.replace('.', "_") == objective.column);
            let format = of_run.map_or(Format::Plain, |column| column.format);
            Column::of_key(objective.column.clone(), objective.column.clone(), format)
        };
        let seen: Vec<Column> =
            self.columns.iter().filter_map(parameter).chain(self.objectives.iter().map(objective)).collect();
        let whole = |column: &sweep::Column| Column::of_key(column.name.clone(), column.name.clone(), Format::Plain);
        let whole: Vec<Column> = self.columns.iter().map(whole).collect();
        let (on, of) = (self.on, super::counted(self.points));
        let rows: Value = self.rows[..self.rows.len().min(SHOWN)].to_vec().into();
        let shown = Table::of(&format!("On the front: {on} of {of}"), Cow::Owned(seen), &rows);
        (shown, Table::of("", Cow::Owned(whole), &self.rows.clone().into()))
    }

    /// Writes all rows to both files, each whole or not at all.
    pub(super) fn write(&self, joined: &mut Joined, parquet: &Path, csv: &Path) -> Result<()> {
        file::replace(parquet, |out| self.parquet(joined, out).map_err(std::io::Error::other))?;
        file::replace(csv, |out| self.csv(joined, out))
    }

    /// All columns, that of the front last.
    fn all(&self) -> Vec<sweep::Column> {
        let front = self.on_front.as_ref().map(|_| sweep::Column { name: ON_FRONT.into(), kind: Kind::Flag });
        self.columns.iter().cloned().chain(front).collect()
    }

    fn cells(&self, joined: &mut Joined, point: usize) -> Result<Vec<Value>> {
        let mut cells = joined.cells(point)?;
        cells.extend(self.on_front.as_ref().map(|on| on[point].into()));
        Ok(cells)
    }

    fn csv(&self, joined: &mut Joined, out: &mut dyn Write) -> std::io::Result<()> {
        let mut writer = csv::Writer::from_writer(out);
        writer.write_record(self.all().iter().map(|column| column.name.as_str()))?;
        for point in 0..self.points {
            let cells = self.cells(joined, point).map_err(std::io::Error::other)?;
            writer.write_record(cells.iter().map(|cell| match cell {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            }))?;
        }
        writer.flush()
    }

    fn parquet(&self, joined: &mut Joined, out: &mut (dyn Write + Send)) -> std::result::Result<(), ParquetError> {
        let columns = self.all();
        let field = |column: &sweep::Column| {
            let (physical, logical) = match column.kind {
                Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
                Kind::Number => (Physical::DOUBLE, None),
                Kind::Flag => (Physical::BOOLEAN, None),
            };
            let field = Type::primitive_type_builder(&column.name, physical);
            field.with_repetition(Repetition::OPTIONAL).with_logical_type(logical).build().map(Arc::new)
        };
        let fields = columns.iter().map(field).collect::<std::result::Result<Vec<_>, _>>()?;
        let schema = Arc::new(Type::group_type_builder("sweep").with_fields(fields).build()?);
        let by = format!("cptr {}", joined.header.version);
        let properties = Arc::new(WriterProperties::builder().set_created_by(by).build());
        let mut writer = SerializedFileWriter::new(out, schema, properties)?;
        for start in (0..self.points).step_by(ROWS) {
            let points = start..(start + ROWS).min(self.points);
            let cells = points.map(|point| self.cells(joined, point)).collect::<Result<Vec<_>>>().map_err(foreign)?;
            let mut group = writer.next_row_group()?;
            for (place, column) in columns.iter().enumerate() {
                let cells = || cells.iter().map(|cells| &cells[place]);
                let there: Vec<i16> = cells().map(|cell| i16::from(!cell.is_null())).collect();
                let wrong = || foreign(Error::new(format!("column {}: expected {:?}", column.name, column.kind)));
                let given = || cells().filter(|cell| !cell.is_null());
                let Some(mut chunk) = group.next_column()? else { return Err(wrong()) };
                match column.kind {
                    Kind::Text => {
                        let values = given().map(|cell| cell.as_str().map(ByteArray::from)).collect::<Option<Vec<_>>>();
                        chunk.typed::<ByteArrayType>().write_batch(&values.ok_or_else(wrong)?, Some(&there), None)?;
                    }
                    Kind::Number => {
                        let values = given().map(Value::as_f64).collect::<Option<Vec<_>>>();
                        chunk.typed::<DoubleType>().write_batch(&values.ok_or_else(wrong)?, Some(&there), None)?;
                    }
                    Kind::Flag => {
                        let values = given().map(Value::as_bool).collect::<Option<Vec<_>>>();
                        chunk.typed::<BoolType>().write_batch(&values.ok_or_else(wrong)?, Some(&there), None)?;
                    }
                }
                chunk.close()?;
            }
            group.close()?;
        }
        writer.close().map(|_| ())
    }
}

fn foreign(error: Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}
