//! Events as Arrow batches and as JSON lines.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, Int64Builder, RecordBatch, RecordBatchOptions, StringViewArray};
use arrow::array::{StringViewBuilder, TimestampMicrosecondArray, TimestampMicrosecondBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::generator::{GROUP, Kind, Tables};

/// The columns of a kind.
pub fn schema(kind: Kind) -> SchemaRef {
    let int = |n: &str| Field::new(n, DataType::Int64, false);
    let text = |n: &str| Field::new(n, DataType::Utf8View, false);
    let time = |n: &str| Field::new(n, DataType::Timestamp(TimeUnit::Microsecond, None), false);
    let fields = match kind {
        Kind::Person => vec![
            int("id"),
            text("name"),
            text("email_address"),
            text("credit_card"),
            text("city"),
            text("state"),
            time("date_time"),
            text("extra"),
        ],
        Kind::Auction => vec![
            int("id"),
            text("item_name"),
            text("description"),
            int("initial_bid"),
            int("reserve"),
            time("date_time"),
            time("expires"),
            int("seller"),
            int("category"),
            text("extra"),
        ],
        Kind::Bid => vec![
            int("auction"),
            int("bidder"),
            int("price"),
            text("channel"),
            text("url"),
            time("date_time"),
            text("extra"),
        ],
    };
    Arc::new(Schema::new(fields))
}

/// The events of one kind in `from..to` that are in one of `splits` splits. Whole groups of 50 events go to a split
/// in turn, so that every split has the standard proportions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slice {
    pub kind: Kind,
    pub split: u64,
    pub splits: u64,
}

impl Slice {
    /// Calls `f` with every event number.
    fn each(self, from: u64, to: u64, mut f: impl FnMut(u64)) {
        let places = self.kind.places();
        let mut group = self.group_at_or_after(from / GROUP);
        while group * GROUP < to {
            let base = group * GROUP;
            let (low, high) = ((base + places.start).max(from), (base + places.end).min(to));
            for n in low..high {
                f(n);
            }
            group += self.splits;
        }
    }

    fn group_at_or_after(self, group: u64) -> u64 {
        group + (self.split + self.splits - group % self.splits) % self.splits
    }

    /// The first event at or after `n`.
    pub(super) fn next_event(self, n: u64) -> u64 {
        let places = self.kind.places();
        let mut group = self.group_at_or_after(n / GROUP);
        if n >= group * GROUP + places.end {
            group += self.splits;
        }
        (group * GROUP + places.start).max(n)
    }

    /// A position after `from` such that about `rows` events are before it.
    pub(super) fn advance(self, from: u64, rows: usize) -> u64 {
        let places = self.kind.places();
        let groups = (rows as u64 / (places.end - places.start)).max(1);
        let first = self.group_at_or_after(from / GROUP);
        (first + groups.saturating_mul(self.splits)).saturating_mul(GROUP)
    }
}

/// One column being filled; the ones that are not asked for cost nothing.
enum Column {
    Skip,
    Int(Int64Builder),
    Text(StringViewBuilder),
    Time(TimestampMicrosecondBuilder),
}

impl Column {
    fn int(&mut self, v: i64) {
        if let Self::Int(b) = self {
            b.append_value(v);
        }
    }
    fn text(&mut self, v: &str) {
        if let Self::Text(b) = self {
            b.append_value(v);
        }
    }
    fn time(&mut self, v: i64) {
        if let Self::Time(b) = self {
            b.append_value(v);
        }
    }
    fn finish(&mut self) -> Option<ArrayRef> {
        match self {
            Self::Skip => None,
            Self::Int(b) => Some(Arc::new(b.finish())),
            Self::Text(b) => Some(Arc::new(b.finish())),
            Self::Time(b) => Some(Arc::new(b.finish())),
        }
    }
}

/// Generates the events of `slice` in `from..to`: the columns `projection` (indexes into the kind's schema, any
/// order), and the event numbers if `numbers`.
pub(super) fn generate(
    tables: &Tables,
    slice: Slice,
    from: u64,
    to: u64,
    projection: &[usize],
    numbers: bool,
) -> (Vec<ArrayRef>, Option<Int64Array>, usize) {
    let full = schema(slice.kind);
    let places = slice.kind.places();
    let guess = ((to.saturating_sub(from) / GROUP / slice.splits + 1) * (places.end - places.start)) as usize;
    let mut columns: Vec<Column> = full
        .fields()
        .iter()
        .enumerate()
        .map(|(i, field)| match field.data_type() {
            _ if !projection.contains(&i) => Column::Skip,
            DataType::Int64 => Column::Int(Int64Builder::with_capacity(guess)),
            DataType::Utf8View => Column::Text(StringViewBuilder::with_capacity(guess)),
            _ => Column::Time(TimestampMicrosecondBuilder::with_capacity(guess)),
        })
        .collect();
    let mut offsets = numbers.then(|| Int64Builder::with_capacity(guess));
    let mut rows = 0;
    let (mut a, mut b, mut c) = (String::new(), String::new(), String::new());
    slice.each(from, to, |n| {
        rows += 1;
        if let Some(offsets) = &mut offsets {
            offsets.append_value(n as i64);
        }
        let columns = columns.as_mut_slice();
        match (slice.kind, columns) {
            (Kind::Bid, [auction, bidder, price, channel, url, date_time, extra]) => {
                let bid = tables.bid(n);
                auction.int(bid.auction);
                bidder.int(bid.bidder);
                price.int(bid.price);
                channel.text(bid.channel);
                url.text(bid.url);
                date_time.time(bid.date_time);
                extra.text(bid.extra);
            }
            (Kind::Auction, [id, item, description, initial, reserve, date_time, expires, seller, category, extra]) => {
                let auction = tables.auction(n, &mut a, &mut b);
                id.int(auction.id);
                item.text(&a);
                description.text(&b);
                initial.int(auction.initial_bid);
                reserve.int(auction.reserve);
                date_time.time(auction.date_time);
                expires.time(auction.expires);
                seller.int(auction.seller);
                category.int(auction.category);
                extra.text(auction.extra);
            }
            (Kind::Person, [id, name, email, card, city, state, date_time, extra]) => {
                let person = tables.person(n, &mut a, &mut b, &mut c);
                id.int(person.id);
                name.text(&a);
                email.text(&b);
                card.text(&c);
                city.text(person.city);
                state.text(person.state);
                date_time.time(person.date_time);
                extra.text(person.extra);
            }
            _ => unreachable!("the columns are those of the kind's schema"),
        }
    });
    let mut arrays: Vec<Option<ArrayRef>> = columns.iter_mut().map(Column::finish).collect();
    // A column may be asked for once only: schemas have unique names.
    let arrays = projection.iter().filter_map(|i| arrays[*i].take()).collect();
    (arrays, offsets.map(|mut o| o.finish()), rows)
}

/// A batch of `rows` rows, also when it has no columns.
pub(super) fn record_batch(schema: SchemaRef, arrays: Vec<ArrayRef>, rows: usize) -> RecordBatch {
    RecordBatch::try_new_with_options(schema, arrays, &RecordBatchOptions::new().with_row_count(Some(rows)))
        .expect("generated columns have the schema's types and one length")
}

/// A column as JSON values.
enum Json<'a> {
    Int(&'a Int64Array),
    Text(&'a StringViewArray),
    Time(&'a TimestampMicrosecondArray),
}

/// Writes every row of a generated batch as a JSON object and a newline.
pub(super) fn write_ndjson(batch: &RecordBatch, out: &mut Vec<u8>) {
    let schema = batch.schema();
    let columns: Vec<(String, Json)> = schema
        .fields()
        .iter()
        .zip(batch.columns())
        .filter_map(|(field, column)| {
            let any = column.as_any();
            let json = any
                .downcast_ref()
                .map(Json::Int)
                .or_else(|| any.downcast_ref().map(Json::Text))
                .or_else(|| any.downcast_ref().map(Json::Time))?;
            Some((format!("\"{}\":", field.name()), json))
        })
        .collect();
    let mut stamp = TimeText::default();
    for row in 0..batch.num_rows() {
        let mut open = b'{';
        for (key, column) in &columns {
            out.push(open);
            open = b',';
            out.extend_from_slice(key.as_bytes());
            match column {
                Json::Int(v) => write_int(v.value(row), out),
                Json::Text(v) => {
                    // Generated text has nothing that JSON would have to escape.
                    out.push(b'"');
                    out.extend_from_slice(v.value(row).as_bytes());
                    out.push(b'"');
                }
                Json::Time(v) => {
                    out.push(b'"');
                    stamp.write(v.value(row), out);
                    out.push(b'"');
                }
            }
        }
        out.extend_from_slice(b"}\n");
    }
}

fn write_int(v: i64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = v.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if v < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

/// Writes microseconds as `YYYY-MM-DDTHH:MM:SS.ffffff`; the part up to the second is kept for the next call.
#[derive(Default)]
struct TimeText {
    second: i64,
    text: String,
}

impl TimeText {
    fn write(&mut self, us: i64, out: &mut Vec<u8>) {
        let second = us.div_euclid(1_000_000);
        if self.text.is_empty() || second != self.second {
            self.second = second;
            self.text = chrono::DateTime::from_timestamp(second, 0)
                .map(|t| t.format("%Y-%m-%dT%H:%M:%S.").to_string())
                .unwrap_or_default();
        }
        out.extend_from_slice(self.text.as_bytes());
        let mut fraction = us.rem_euclid(1_000_000);
        let mut digits = [0u8; 6];
        for d in digits.iter_mut().rev() {
            *d = b'0' + (fraction % 10) as u8;
            fraction /= 10;
        }
        out.extend_from_slice(&digits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(slice: Slice, from: u64, to: u64) -> Vec<u64> {
        let mut all = Vec::new();
        slice.each(from, to, |n| all.push(n));
        all
    }

    #[test]
    fn splits_partition_the_events_of_a_kind() {
        for kind in [Kind::Person, Kind::Auction, Kind::Bid] {
            let whole = numbers(Slice { kind, split: 0, splits: 1 }, 13, 1777);
            let expected: Vec<u64> = (13..1777).filter(|n| kind.places().contains(&(n % GROUP))).collect();
            assert_eq!(whole, expected);
            for splits in [2, 3, 7] {
                let mut parts: Vec<u64> =
                    (0..splits).flat_map(|split| numbers(Slice { kind, split, splits }, 13, 1777)).collect();
                parts.sort_unstable();
                assert_eq!(parts, expected);
            }
        }
    }

    #[test]
    fn the_next_event_is_the_first_of_the_iteration() {
        for kind in [Kind::Person, Kind::Auction, Kind::Bid] {
            for splits in [1, 3] {
                for split in 0..splits {
                    let slice = Slice { kind, split, splits };
                    for n in 0..400 {
                        assert_eq!(Some(&slice.next_event(n)), numbers(slice, n, n + 500).first());
                        assert!(slice.advance(n, 1) > n);
                    }
                }
            }
        }
    }

    #[test]
    fn json_lines_say_what_the_columns_say() {
        let tables = Tables::new(3, 1_767_225_600_000_000, 250_000);
        let slice = Slice { kind: Kind::Bid, split: 0, splits: 1 };
        let (arrays, _, rows) = generate(&tables, slice, 0, 100, &[0, 1, 2, 3, 4, 5, 6], false);
        let batch = record_batch(schema(Kind::Bid), arrays, rows);
        let mut out = Vec::new();
        write_ndjson(&batch, &mut out);
        let lines: Vec<serde_json::Value> =
            out.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice(l).unwrap()).collect();
        assert_eq!(lines.len(), 92);
        assert_eq!(lines[0]["date_time"], "2026-01-01T00:00:01.000000");
        assert_eq!(lines[1]["date_time"], "2026-01-01T00:00:01.250000");
        let price: &Int64Array = batch.column(2).as_any().downcast_ref().unwrap();
        let url: &StringViewArray = batch.column(4).as_any().downcast_ref().unwrap();
        for (i, line) in lines.iter().enumerate() {
            assert_eq!(line["price"], price.value(i));
            assert_eq!(line["url"], url.value(i));
            assert_eq!(line.as_object().unwrap().len(), 7);
        }
    }
}
