//! Arrow values as JSON.
//!
//! Inside the processor times are nanoseconds since 1970, which identities are computed of.
//! Where a row is told, they are text ([`told`]), as in the JSON of every record.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimeUnit, TimestampNanosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::util::display::array_value_to_string;
use dogwatch_schemas::{time, vocabulary};
use serde_json::{Map, Value};

/// A batch's columns with their names.
pub fn named(batch: &RecordBatch) -> Vec<(&str, ArrayRef)> {
    let fields = batch.schema_ref().fields().iter().zip(batch.columns());
    fields
        .map(|(field, column)| (field.name().as_str(), Arc::clone(column)))
        .collect()
}

/// One row of named columns; nulls are kept.
pub fn row(columns: &[(&str, ArrayRef)], row: usize) -> Map<String, Value> {
    columns
        .iter()
        .map(|(name, column)| ((*name).to_owned(), value(column.as_ref(), row)))
        .collect()
}

/// One row of named columns as it is told.
pub fn told_row(columns: &[(&str, ArrayRef)], row: usize) -> Map<String, Value> {
    let told = |(name, column): &(&str, ArrayRef)| {
        let kind = kind_of(name, column.data_type());
        ((*name).to_owned(), told(value(column.as_ref(), row), &kind))
    };
    columns.iter().map(told).collect()
}

/// The type by which a column is told: that of times, where its numbers are.
pub fn kind_of(column: &str, kind: &DataType) -> DataType {
    let times = vocabulary::of(column).is_some_and(|known| known.times);
    match kind {
        DataType::List(item) if times && *item.data_type() == DataType::Int64 => {
            let time = DataType::Timestamp(TimeUnit::Nanosecond, Some("+00:00".into()));
            DataType::List(Arc::new(item.as_ref().clone().with_data_type(time)))
        }
        kind => kind.clone(),
    }
}

/// Whether a type holds times.
pub fn holds_times(kind: &DataType) -> bool {
    match kind {
        DataType::Timestamp(..) => true,
        DataType::List(item) | DataType::Map(item, _) => holds_times(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| holds_times(field.data_type())),
        _ => false,
    }
}

/// A value of this type as it is told: its times are RFC 3339 text.
pub fn told(value: Value, kind: &DataType) -> Value {
    match (kind, value) {
        (DataType::Timestamp(..), Value::Number(ns)) => {
            ns.as_i64().map_or(Value::Null, |ns| time::text(ns).into())
        }
        // Of another unit: text already, of fewer digits, and without an offset where it has none.
        (DataType::Timestamp(..), Value::String(text)) => {
            let ns = time::nanoseconds(&text).or_else(|| time::nanoseconds(&format!("{text}Z")));
            ns.map_or(text, time::text).into()
        }
        (DataType::List(item), Value::Array(values)) => {
            let told = values
                .into_iter()
                .map(|value| told(value, item.data_type()));
            told.collect()
        }
        (DataType::Map(entry, _), Value::Object(entries)) => match entry.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                let told = |(name, value)| (name, told(value, fields[1].data_type()));
                Value::Object(entries.into_iter().map(told).collect())
            }
            _ => Value::Object(entries),
        },
        (DataType::Struct(fields), Value::Object(values)) => {
            let told = |(name, value): (String, Value)| match fields.find(&name) {
                Some((_, field)) => (name, told(value, field.data_type())),
                None => (name, value),
            };
            Value::Object(values.into_iter().map(told).collect())
        }
        (_, value) => value,
    }
}

/// One value.
pub fn value(array: &dyn Array, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => array.as_boolean().value(row).into(),
        DataType::Int8 => number::<Int8Type>(array, row),
        DataType::Int16 => number::<Int16Type>(array, row),
        DataType::Int32 => number::<Int32Type>(array, row),
        DataType::Int64 => number::<Int64Type>(array, row),
        DataType::UInt8 => number::<UInt8Type>(array, row),
        DataType::UInt16 => number::<UInt16Type>(array, row),
        DataType::UInt32 => number::<UInt32Type>(array, row),
        DataType::UInt64 => number::<UInt64Type>(array, row),
        DataType::Float32 => number::<Float32Type>(array, row),
        DataType::Float64 => number::<Float64Type>(array, row),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            number::<TimestampNanosecondType>(array, row)
        }
        DataType::Utf8 => array.as_string::<i32>().value(row).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).into(),
        DataType::Utf8View => array.as_string_view().value(row).into(),
        DataType::List(_) => list(array.as_list::<i32>().value(row).as_ref()),
        DataType::Map(_, _) => entries(&array.as_map().value(row)),
        DataType::Struct(_) => fields(array.as_struct(), row),
        // Rare results of expressions, such as intervals: their text says enough.
        _ => array_value_to_string(array, row).map_or(Value::Null, Value::String),
    }
}

fn number<T: ArrowPrimitiveType>(array: &dyn Array, row: usize) -> Value
where
    Value: From<T::Native>,
{
    array.as_primitive::<T>().value(row).into()
}

fn list(items: &dyn Array) -> Value {
    (0..items.len()).map(|item| value(items, item)).collect()
}

fn entries(entries: &StructArray) -> Value {
    let (keys, values) = (entries.column(0), entries.column(1));
    let pairs = (0..entries.len()).filter_map(|entry| match value(keys.as_ref(), entry) {
        Value::String(key) => Some((key, value(values.as_ref(), entry))),
        _ => None,
    });
    Value::Object(pairs.collect())
}

fn fields(record: &StructArray, row: usize) -> Value {
    let named = record.column_names().into_iter().zip(record.columns());
    Value::Object(
        named
            .map(|(name, column)| (name.to_owned(), value(column.as_ref(), row)))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use arrow::array::{TimestampMicrosecondArray, TimestampNanosecondArray, TimestampSecondArray};
    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn times_are_told_as_text_by_their_column() {
        fn check(column: ArrayRef, expected: &str) {
            let kind = column.data_type().clone();
            let text = told(value(column.as_ref(), 0), &kind).to_string();
            assert_eq!(text, expected, "{kind}");
        }
        let ns = 1_750_003_200_000_000_211;
        let whole = "\"2025-06-15T16:00:00.000000211Z\"";
        check(
            Arc::new(TimestampNanosecondArray::from(vec![ns]).with_timezone("+00:00")),
            whole,
        );
        check(
            Arc::new(TimestampNanosecondArray::from(vec![ns]).with_timezone("+02:00")),
            whole,
        );
        check(Arc::new(TimestampNanosecondArray::from(vec![ns])), whole);
        check(
            Arc::new(TimestampMicrosecondArray::from(vec![1_750_003_200_000_001])),
            "\"2025-06-15T16:00:00.000001000Z\"",
        );
        check(
            Arc::new(TimestampSecondArray::from(vec![1_750_003_200]).with_timezone("+02:00")),
            "\"2025-06-15T16:00:00.000000000Z\"",
        );
        check(Arc::new(TimestampNanosecondArray::from(vec![None])), "null");
        // By column, never by value: a number that might be a time is one.
        check(
            Arc::new(arrow::array::Int64Array::from(vec![ns])),
            "1750003200000000211",
        );
    }

    #[test]
    fn times_within_lists_and_structs_are_told_as_text_too() {
        let time = DataType::Timestamp(TimeUnit::Nanosecond, None);
        let list = DataType::List(Arc::new(Field::new("item", time.clone(), true)));
        let record = DataType::Struct(
            vec![
                Field::new("at", list, true),
                Field::new("n", DataType::Int64, true),
            ]
            .into(),
        );
        assert!(holds_times(&record) && !holds_times(&DataType::Int64));
        let told = told(serde_json::json!({"at": [0, null], "n": 0}), &record);
        assert_eq!(
            told.to_string(),
            "{\"at\":[\"1970-01-01T00:00:00.000000000Z\",null],\"n\":0}"
        );
        let ancestors = DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
        assert!(holds_times(&kind_of("proc_apid_ts", &ancestors)));
        assert!(!holds_times(&kind_of("proc_apid", &ancestors)));
    }
}
