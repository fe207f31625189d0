//! Tables, their first rows, and changes of them, as SQL.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// CREATE statements.
pub const TABLES: &[&str] = &[
    "CREATE TABLE region (r_regionkey INT PRIMARY KEY, r_name TEXT, r_comment TEXT)",
    "CREATE TABLE nation (n_nationkey INT PRIMARY KEY, n_name TEXT, n_regionkey INT, n_comment TEXT)",
    "CREATE TABLE supplier (s_suppkey INT PRIMARY KEY, s_name TEXT, s_address TEXT, s_nationkey INT, s_phone TEXT, \
     s_acctbal DECIMAL(15,2), s_comment TEXT)",
    "CREATE TABLE part (p_partkey INT PRIMARY KEY, p_name TEXT, p_mfgr TEXT, p_brand TEXT, p_type TEXT, p_size INT, \
     p_container TEXT, p_retailprice DECIMAL(15,2), p_comment TEXT)",
    "CREATE TABLE partsupp (ps_partkey INT, ps_suppkey INT, ps_availqty INT, ps_supplycost DECIMAL(15,2), \
     ps_comment TEXT, PRIMARY KEY (ps_partkey, ps_suppkey))",
    "CREATE TABLE customer (c_custkey INT PRIMARY KEY, c_name TEXT, c_address TEXT, c_nationkey INT, c_phone TEXT, \
     c_acctbal DECIMAL(15,2), c_mktsegment TEXT, c_comment TEXT)",
    "CREATE TABLE orders (o_orderkey INT PRIMARY KEY, o_custkey INT, o_orderstatus TEXT, o_totalprice DECIMAL(15,2), \
     o_orderdate DATE, o_orderpriority TEXT, o_clerk TEXT, o_shippriority INT, o_comment TEXT)",
    "CREATE TABLE lineitem (l_orderkey INT, l_partkey INT, l_suppkey INT, l_linenumber INT, l_quantity DECIMAL(15,2), \
     l_extendedprice DECIMAL(15,2), l_discount DECIMAL(15,2), l_tax DECIMAL(15,2), l_returnflag TEXT, \
     l_linestatus TEXT, l_shipdate DATE, l_commitdate DATE, l_receiptdate DATE, l_shipinstruct TEXT, l_shipmode TEXT, \
     l_comment TEXT, PRIMARY KEY (l_orderkey, l_linenumber))",
];

const REGIONS: [&str; 5] = ["AFRICA", "AMERICA", "ASIA", "EUROPE", "MIDDLE EAST"];
/// Name and region.
const NATIONS: [(&str, usize); 12] = [
    ("ALGERIA", 0),
    ("BRAZIL", 1),
    ("CANADA", 1),
    ("CHINA", 2),
    ("FRANCE", 3),
    ("GERMANY", 3),
    ("INDIA", 2),
    ("IRAQ", 4),
    ("KENYA", 0),
    ("ROMANIA", 3),
    ("SAUDI ARABIA", 4),
    ("UNITED STATES", 1),
];
const SEGMENTS: [&str; 3] = ["BUILDING", "MACHINERY", "AUTOMOBILE"];
const PRIORITIES: [&str; 5] = ["1-URGENT", "2-HIGH", "3-MEDIUM", "4-NOT SPECIFIED", "5-LOW"];
const MODES: [&str; 5] = ["AIR", "AIR REG", "MAIL", "SHIP", "TRUCK"];
const INSTRUCTIONS: [&str; 3] = ["DELIVER IN PERSON", "NONE", "COLLECT COD"];
const CONTAINERS: [&str; 6] = ["SM CASE", "SM BOX", "MED BOX", "MED BAG", "LG CASE", "LG PKG"];
const COLORS: [&str; 5] = ["forest", "green", "almond", "lemon", "navy"];
const COMMENTS: [&str; 4] = ["quick", "special packages requests", "Customer heard Complaints", "final accounts"];

const SUPPLIERS: i32 = 12;
const PARTS: i32 = 40;
const CUSTOMERS: i32 = 30;

/// What is there, and the randomness that changes it.
pub struct Data {
    rng: SmallRng,
    next_order: i32,
    /// Orders with the numbers of their lines.
    orders: BTreeMap<i32, Vec<i32>>,
}

/// Day `n` of the years 1993 to 1997.
fn day(n: i32) -> String {
    let mut left = n;
    for year in 1993..1999 {
        let february = if year % 4 == 0 { 29 } else { 28 };
        for (month, days) in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31].into_iter().enumerate() {
            if left < days {
                return format!("'{year}-{:02}-{:02}'", month + 1, left + 1);
            }
            left -= days;
        }
    }
    "'1998-12-31'".into()
}

impl Data {
    /// Data of a seed.
    pub fn new(seed: u64) -> Self {
        Self { rng: SmallRng::seed_from_u64(seed), next_order: 1, orders: BTreeMap::new() }
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from.choose(&mut self.rng).copied().unwrap_or_default()
    }

    fn money(&mut self, from: i32, to: i32) -> String {
        format!("{}.{:02}", self.rng.random_range(from..to), self.rng.random_range(0..100))
    }

    fn insert(table: &str, rows: &[String]) -> String {
        format!("INSERT INTO {table} VALUES {}", rows.join(", "))
    }

    /// Statements for the first rows of all tables.
    pub fn first(&mut self, orders: usize) -> Vec<String> {
        let regions: Vec<String> = REGIONS.iter().enumerate().map(|(i, r)| format!("({i}, '{r}', 'r')")).collect();
        let nations: Vec<String> =
            NATIONS.iter().enumerate().map(|(i, (n, r))| format!("({i}, '{n}', {r}, 'n')")).collect();
        let mut out = vec![Self::insert("region", &regions), Self::insert("nation", &nations)];
        let mut rows = Vec::new();
        for s in 1..=SUPPLIERS {
            let (nation, balance, comment) = (s % 12, self.money(-900, 9000), self.pick(&COMMENTS));
            let phone = format!("{}-{:03}-000-0000", nation + 10, s);
            rows.push(format!("({s}, 'Supplier#{s:09}', 'address {s}', {nation}, '{phone}', {balance}, '{comment}')"));
        }
        out.push(Self::insert("supplier", &rows));
        rows.clear();
        let mut supplies = Vec::new();
        for p in 1..=PARTS {
            let name = format!("{} {}", self.pick(&COLORS), self.pick(&COLORS));
            let brand = format!("Brand#{}{}", self.rng.random_range(1..3), self.rng.random_range(2..4));
            let kind = format!(
                "{} {} {}",
                self.pick(&["STANDARD", "PROMO", "ECONOMY", "MEDIUM"]),
                self.pick(&["ANODIZED", "POLISHED"]),
                self.pick(&["BRASS", "STEEL", "TIN"])
            );
            let size = [5, 15, 23, 45].choose(&mut self.rng).copied().unwrap_or(5);
            let (container, price) = (self.pick(&CONTAINERS), self.money(900, 1900));
            let mfgr = self.rng.random_range(1..6);
            rows.push(format!(
                "({p}, '{name}', 'Manufacturer#{mfgr}', '{brand}', '{kind}', {size}, '{container}', {price}, 'p')"
            ));
            for i in 0..3 {
                let supplier = (p + i * 5) % SUPPLIERS + 1;
                let (quantity, cost) = (self.rng.random_range(1..200), self.money(1, 1000));
                supplies.push(format!("({p}, {supplier}, {quantity}, {cost}, 'ps')"));
            }
        }
        out.push(Self::insert("part", &rows));
        out.push(Self::insert("partsupp", &supplies));
        rows.clear();
        for c in 1..=CUSTOMERS {
            let (nation, balance) = (self.rng.random_range(0..12), self.money(-900, 9000));
            let segment = self.pick(&SEGMENTS);
            let phone = format!("{}-{c:03}-000-0000", nation + 10);
            rows.push(format!(
                "({c}, 'Customer#{c:09}', 'address {c}', {nation}, '{phone}', {balance}, '{segment}', 'c')"
            ));
        }
        out.push(Self::insert("customer", &rows));
        let (mut heads, mut lines) = (Vec::new(), Vec::new());
        for _ in 0..orders {
            let (head, of_order) = self.order();
            heads.push(head);
            lines.extend(of_order);
        }
        out.push(Self::insert("orders", &heads));
        out.push(Self::insert("lineitem", &lines));
        out
    }

    /// An order and its lines.
    fn order(&mut self) -> (String, Vec<String>) {
        let key = self.next_order;
        self.next_order += 1;
        // A third of the customers never orders, as in the original.
        let customer = loop {
            let c = self.rng.random_range(1..=CUSTOMERS);
            if c % 3 != 0 {
                break c;
            }
        };
        let date = self.rng.random_range(0..1640);
        let (status, price) = (self.pick(&["O", "F", "F", "P"]), self.money(1000, 300_000));
        let (priority, comment) = (self.pick(&PRIORITIES), self.pick(&COMMENTS));
        let head =
            format!("({key}, {customer}, '{status}', {price}, {}, '{priority}', 'Clerk', 0, '{comment}')", day(date));
        let count = self.rng.random_range(1..6);
        let lines = (1..=count).map(|n| self.line(key, n, date)).collect();
        self.orders.insert(key, (1..=count).collect());
        (head, lines)
    }

    fn line(&mut self, order: i32, number: i32, date: i32) -> String {
        let part = self.rng.random_range(1..=PARTS);
        let supplier = (part + self.rng.random_range(0..3) * 5) % SUPPLIERS + 1;
        let (quantity, price) = (self.rng.random_range(1..51), self.money(900, 90_000));
        let (discount, tax) = (self.rng.random_range(0..11), self.rng.random_range(0..9));
        let shipped = date + self.rng.random_range(1..90);
        let committed = date + self.rng.random_range(30..90);
        let received = shipped + self.rng.random_range(1..31);
        let (flag, status) = (self.pick(&["R", "A", "N"]), self.pick(&["O", "F"]));
        let (instruction, mode) = (self.pick(&INSTRUCTIONS), self.pick(&MODES));
        format!(
            "({order}, {part}, {supplier}, {number}, {quantity}, {price}, 0.{discount:02}, 0.{tax:02}, '{flag}', \
             '{status}', {}, {}, {}, '{instruction}', '{mode}', 'l')",
            day(shipped),
            day(committed),
            day(received)
        )
    }

    fn some_order(&mut self) -> Option<i32> {
        let keys: Vec<i32> = self.orders.keys().copied().collect();
        keys.choose(&mut self.rng).copied()
    }

    /// The statements of one small transaction.
    pub fn change(&mut self) -> Vec<String> {
        let roll = self.rng.random_range(0..100);
        let Some(key) = self.some_order().filter(|_| roll >= 30) else {
            let (head, lines) = self.order();
            return vec![Self::insert("orders", &[head]), Self::insert("lineitem", &lines)];
        };
        let number = self.orders[&key].choose(&mut self.rng).copied().unwrap_or(1);
        let line = format!("l_orderkey = {key} AND l_linenumber = {number}");
        match roll {
            30..45 => {
                self.orders.remove(&key);
                vec![
                    format!("DELETE FROM lineitem WHERE l_orderkey = {key}"),
                    format!("DELETE FROM orders WHERE o_orderkey = {key}"),
                ]
            }
            45..60 => {
                let (quantity, discount) = (self.rng.random_range(1..51), self.rng.random_range(0..11));
                let flag = self.pick(&["R", "A", "N"]);
                vec![format!(
                    "UPDATE lineitem SET l_quantity = {quantity}, l_discount = 0.{discount:02}, l_returnflag = '{flag}' \
                     WHERE {line}"
                )]
            }
            60..70 => {
                let received = self.rng.random_range(0..1700);
                vec![format!(
                    "UPDATE lineitem SET l_receiptdate = {}, l_shipdate = {} WHERE {line}",
                    day(received),
                    day(received - received.min(9))
                )]
            }
            70..85 => {
                let (status, priority) = (self.pick(&["O", "F", "P"]), self.pick(&PRIORITIES));
                let date = self.rng.random_range(0..1640);
                vec![format!(
                    "UPDATE orders SET o_orderstatus = '{status}', o_orderpriority = '{priority}', o_orderdate = {} \
                     WHERE o_orderkey = {key}",
                    day(date)
                )]
            }
            85..92 => {
                let (cost, part) = (self.money(1, 1000), self.rng.random_range(1..=PARTS));
                vec![format!("UPDATE partsupp SET ps_supplycost = {cost} WHERE ps_partkey = {part}")]
            }
            _ => {
                let (balance, customer) = (self.money(-900, 9000), self.rng.random_range(1..=CUSTOMERS));
                vec![format!("UPDATE customer SET c_acctbal = {balance} WHERE c_custkey = {customer}")]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_rows_and_days_are_days() {
        let all = |seed| {
            let mut data = Data::new(seed);
            let mut out = data.first(20);
            out.extend((0..40).flat_map(|_| data.change()));
            out
        };
        assert_eq!(all(1), all(1));
        assert_ne!(all(1), all(2));
        assert_eq!(
            (day(0).as_str(), day(58).as_str(), day(365).as_str()),
            ("'1993-01-01'", "'1993-02-28'", "'1994-01-01'")
        );
        assert_eq!(day(3 * 365 + 59), "'1996-02-29'");
    }
}
