//! Arrow values as JSON.
//!
//! Times are nanoseconds since 1970, as in the schemas: a row of events as JSON is an [`dogwatch_schemas::records::Event`] again.

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimeUnit, TimestampNanosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::util::display::array_value_to_string;
use serde_json::{Map, Value};

/// One row of named columns; nulls are kept.
pub(crate) fn row(columns: &[(&str, ArrayRef)], row: usize) -> Map<String, Value> {
    columns
        .iter()
        .map(|(name, column)| ((*name).to_owned(), value(column.as_ref(), row)))
        .collect()
}

/// One value.
pub(crate) fn value(array: &dyn Array, row: usize) -> Value {
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
