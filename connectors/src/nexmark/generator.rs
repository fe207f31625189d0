//! The events themselves: every event is a pure function of the seed and its number.
//!
//! Distributions are those of the Nexmark generator of Apache Beam and Flink: 50 events make a group of one person,
//! three auctions and 46 bids; half of the bids go to a hot auction, three quarters come from a hot bidder, three
//! quarters of the auctions are of a hot seller. Event `n` draws from its own random stream, so it can be made
//! without making event `n - 1`, and replay from any position is exact.

use std::ops::Range;

/// Events in one group of persons, auctions and bids.
pub(super) const GROUP: u64 = 50;
const PERSONS: u64 = 1;
const AUCTIONS: u64 = 3;

const FIRST_ID: u64 = 1000;
const FIRST_CATEGORY: u64 = 10;
const CATEGORIES: u64 = 5;

/// One of so many persons or auctions in a row is the hot one.
const HOT_STRIDE: u64 = 100;
const HOT_AUCTION_RATIO: u64 = 2;
const HOT_BIDDER_RATIO: u64 = 4;
const HOT_SELLER_RATIO: u64 = 4;
const HOT_CHANNEL_RATIO: u64 = 2;
/// Recent persons who act.
const ACTIVE_PERSONS: u64 = 1000;
/// Ids may run ahead of the persons or auctions that exist by so many.
const ID_LEAD: u64 = 10;
/// Auctions open at one time.
const OPEN_AUCTIONS: u64 = 100;

const CHANNELS: u64 = 10_000;
const HOT_CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];
const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];
const CITIES: [&str; 10] =
    ["Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne"];
const FIRST_NAMES: [&str; 11] =
    ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"];
const LAST_NAMES: [&str; 9] = ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"];

/// `extra` is a slice of this much random text.
const TEXT_BYTES: usize = 64 << 10;
const EXTRA_MIN: u64 = 20;
const EXTRA_SPAN: u64 = 31;

const PRICE_STEPS: usize = 4096;

/// Which of the three event types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A person registers.
    Person,
    /// A person opens an auction.
    Auction,
    /// A person bids on an auction.
    Bid,
}

impl Kind {
    /// By name, as the option `type` has it.
    pub fn parse(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "person" => Some(Self::Person),
            "auction" => Some(Self::Auction),
            "bid" => Some(Self::Bid),
            _ => None,
        }
    }

    /// `person`, `auction` or `bid`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Auction => "auction",
            Self::Bid => "bid",
        }
    }

    /// Places of this kind in a group.
    pub(super) fn places(self) -> Range<u64> {
        match self {
            Self::Person => 0..PERSONS,
            Self::Auction => PERSONS..PERSONS + AUCTIONS,
            Self::Bid => PERSONS + AUCTIONS..GROUP,
        }
    }
}

/// The random stream of one event (SplitMix64).
pub(super) struct Rng(u64);

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Rng {
    fn new(seed: u64, stream: u64) -> Self {
        // Mixed twice: neighbouring events must not share a shifted sequence.
        Self(mix(mix(seed.wrapping_add(GOLDEN)) ^ stream.wrapping_mul(0xD6E8_FEB8_6659_FD93)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// Uniform in `0..n`.
    fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }

    /// 3 to `max` letters and, if `special` is not a letter, some of these; appended to `out`.
    fn string(&mut self, max: u64, special: u8, out: &mut String) {
        let start = out.len();
        for _ in 0..3 + self.below(max - 3) {
            let r = self.next();
            // The high and low halves are independent enough for filler text.
            let c = if (r >> 32).is_multiple_of(13) { special } else { b'a' + (r as u32 % 26) as u8 };
            out.push(char::from(c));
        }
        // No blanks at the ends, as the original trims.
        while out.len() > start && out.ends_with(' ') {
            out.pop();
        }
        if out[start..].starts_with(' ') {
            let kept = out[start..].trim_start().to_owned();
            out.truncate(start);
            out.push_str(&kept);
        }
    }
}

/// What is computed once per generator.
#[derive(Debug)]
pub(super) struct Tables {
    seed: u64,
    start_us: i64,
    gap_us: u64,
    /// Channel name and URL; the hot ones first.
    channels: Vec<(String, String)>,
    text: String,
    prices: Vec<f64>,
}

/// A bid; strings by reference into the tables.
pub(super) struct Bid<'a> {
    pub auction: i64,
    pub bidder: i64,
    pub price: i64,
    pub channel: &'a str,
    pub url: &'a str,
    pub date_time: i64,
    pub extra: &'a str,
}

/// An auction; the strings it composes are in the caller's buffers.
pub(super) struct Auction<'a> {
    pub id: i64,
    pub initial_bid: i64,
    pub reserve: i64,
    pub date_time: i64,
    pub expires: i64,
    pub seller: i64,
    pub category: i64,
    pub extra: &'a str,
}

/// A person; the strings it composes are in the caller's buffers.
pub(super) struct Person<'a> {
    pub id: i64,
    pub city: &'static str,
    pub state: &'static str,
    pub date_time: i64,
    pub extra: &'a str,
}

impl Tables {
    pub(super) fn new(seed: u64, start_us: i64, gap_us: u64) -> Self {
        let mut rng = Rng::new(seed, u64::MAX);
        let mut channels = Vec::with_capacity(HOT_CHANNELS.len() + CHANNELS as usize);
        for name in HOT_CHANNELS {
            channels.push((name.to_owned(), base_url(&mut rng)));
        }
        for i in 0..CHANNELS as u32 {
            let mut url = base_url(&mut rng);
            if rng.below(10) > 0 {
                let id = (i.reverse_bits() as i32).unsigned_abs();
                url.push_str("&channel_id=");
                url.push_str(&id.to_string());
            }
            channels.push((format!("channel-{i}"), url));
        }
        let mut text = String::with_capacity(TEXT_BYTES);
        for _ in 0..TEXT_BYTES {
            let r = rng.next();
            text.push(if (r >> 32).is_multiple_of(9) { ' ' } else { char::from(b'a' + (r as u32 % 26) as u8) });
        }
        let prices = (0..=PRICE_STEPS).map(|i| 10f64.powf(6.0 * i as f64 / PRICE_STEPS as f64) * 100.0).collect();
        Self { seed, start_us, gap_us, channels, text, prices }
    }

    pub(super) fn time(&self, n: u64) -> i64 {
        self.start_us.saturating_add_unsigned(n.saturating_mul(self.gap_us))
    }

    fn rng(&self, n: u64) -> Rng {
        Rng::new(self.seed, n)
    }

    /// 10^(6x) in cents for uniform x, interpolated: a power per event would cost more than all the rest.
    fn price(&self, rng: &mut Rng) -> i64 {
        let r = rng.next() >> 11;
        let x = r as f64 / (1u64 << 53) as f64 * PRICE_STEPS as f64;
        let i = x as usize;
        let low = self.prices[i];
        (low + (self.prices[i + 1] - low) * (x - i as f64)).round() as i64
    }

    fn extra(&self, rng: &mut Rng) -> &str {
        let r = rng.next();
        let len = EXTRA_MIN + (r >> 48) % EXTRA_SPAN;
        let at = (r & 0xFFFF_FFFF) % (TEXT_BYTES as u64 - EXTRA_MIN - EXTRA_SPAN);
        &self.text[at as usize..(at + len) as usize]
    }

    pub(super) fn bid(&self, n: u64) -> Bid<'_> {
        let rng = &mut self.rng(n);
        let last_auction = last_auction(n);
        let auction = if rng.below(HOT_AUCTION_RATIO) > 0 {
            last_auction / HOT_STRIDE * HOT_STRIDE
        } else {
            let oldest = last_auction.saturating_sub(OPEN_AUCTIONS);
            oldest + rng.below(last_auction - oldest + 1 + ID_LEAD)
        };
        let bidder = if rng.below(HOT_BIDDER_RATIO) > 0 {
            last_person(n) / HOT_STRIDE * HOT_STRIDE + 1
        } else {
            active_person(n, rng)
        };
        let price = self.price(rng);
        let channel = if rng.below(HOT_CHANNEL_RATIO) > 0 {
            rng.below(HOT_CHANNELS.len() as u64)
        } else {
            HOT_CHANNELS.len() as u64 + rng.below(CHANNELS)
        };
        let (channel, url) = &self.channels[channel as usize];
        Bid {
            auction: id(auction),
            bidder: id(bidder),
            price,
            channel,
            url,
            date_time: self.time(n),
            extra: self.extra(rng),
        }
    }

    pub(super) fn auction(&self, n: u64, item_name: &mut String, description: &mut String) -> Auction<'_> {
        let rng = &mut self.rng(n);
        let seller = if rng.below(HOT_SELLER_RATIO) > 0 {
            last_person(n) / HOT_STRIDE * HOT_STRIDE
        } else {
            active_person(n, rng)
        };
        let category = FIRST_CATEGORY + rng.below(CATEGORIES);
        let initial_bid = self.price(rng);
        let reserve = initial_bid + self.price(rng);
        item_name.clear();
        rng.string(20, b' ', item_name);
        description.clear();
        rng.string(100, b' ', description);
        let date_time = self.time(n);
        // Such that about OPEN_AUCTIONS are open at one time.
        let horizon = (OPEN_AUCTIONS * GROUP / AUCTIONS).saturating_mul(self.gap_us);
        let open_for = 1 + rng.below(horizon.saturating_mul(2).max(1));
        Auction {
            id: id(last_auction(n)),
            initial_bid,
            reserve,
            date_time,
            expires: date_time.saturating_add_unsigned(open_for),
            seller: id(seller),
            category: category as i64,
            extra: self.extra(rng),
        }
    }

    pub(super) fn person(&self, n: u64, name: &mut String, email: &mut String, card: &mut String) -> Person<'_> {
        let rng = &mut self.rng(n);
        name.clear();
        name.push_str(rng.pick(&FIRST_NAMES));
        name.push(' ');
        name.push_str(rng.pick(&LAST_NAMES));
        email.clear();
        // Letters only: `a` where the original may put a blank.
        rng.string(7, b'a', email);
        email.push('@');
        rng.string(5, b'a', email);
        email.push_str(".com");
        card.clear();
        for i in 0..4 {
            if i > 0 {
                card.push(' ');
            }
            let mut digits = rng.below(10_000);
            for unit in [1000, 100, 10, 1] {
                card.push(char::from(b'0' + (digits / unit) as u8));
                digits %= unit;
            }
        }
        Person {
            id: id(last_person(n)),
            city: rng.pick(&CITIES),
            state: rng.pick(&STATES),
            date_time: self.time(n),
            extra: self.extra(rng),
        }
    }
}

fn id(base: u64) -> i64 {
    (base + FIRST_ID) as i64
}

fn base_url(rng: &mut Rng) -> String {
    let mut url = String::from("https://www.nexmark.com/");
    for _ in 0..3 {
        rng.string(5, b'_', &mut url);
        url.push('/');
    }
    url.push_str("item.htm?query=1");
    url
}

/// The newest person when event `n` happens, counted from 0.
fn last_person(n: u64) -> u64 {
    // Persons are the first events of their group.
    n / GROUP * PERSONS + PERSONS - 1
}

/// The newest auction when event `n` happens, counted from 0 (0 also before the first).
fn last_auction(n: u64) -> u64 {
    let (group, place) = (n / GROUP, n % GROUP);
    match place.checked_sub(PERSONS) {
        None => (group * AUCTIONS).saturating_sub(1),
        Some(after) => group * AUCTIONS + after.min(AUCTIONS - 1),
    }
}

/// One of the last active persons, or one just ahead of them.
fn active_person(n: u64, rng: &mut Rng) -> u64 {
    let persons = last_person(n) + 1;
    let active = persons.min(ACTIVE_PERSONS);
    persons - active + rng.below(active + ID_LEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_count_up_without_holes_over_the_groups() {
        let persons: Vec<u64> = (0..500).filter(|n| n % GROUP < PERSONS).map(last_person).collect();
        assert_eq!(persons, (0..10).collect::<Vec<_>>());
        let auctions: Vec<u64> =
            (0..500).filter(|n| Kind::Auction.places().contains(&(n % GROUP))).map(last_auction).collect();
        assert_eq!(auctions, (0..30).collect::<Vec<_>>());
    }

    #[test]
    fn bids_are_hot_as_often_as_the_standard_says() {
        let t = Tables::new(1, 0, 100);
        let ns: Vec<u64> = (1_000_000..1_020_000).filter(|n| Kind::Bid.places().contains(&(n % GROUP))).collect();
        let share =
            |f: &dyn Fn(u64, &Bid) -> bool| ns.iter().filter(|n| f(**n, &t.bid(**n))).count() as f64 / ns.len() as f64;
        let hot_auction = share(&|n, b| b.auction == id(last_auction(n) / 100 * 100));
        assert!((0.49..0.53).contains(&hot_auction), "{hot_auction}");
        let hot_bidder = share(&|n, b| b.bidder == id(last_person(n) / 100 * 100 + 1));
        assert!((0.73..0.77).contains(&hot_bidder), "{hot_bidder}");
        let hot_channel = share(&|_, b| HOT_CHANNELS.contains(&b.channel));
        assert!((0.48..0.52).contains(&hot_channel), "{hot_channel}");
        let below_1000 = share(&|_, b| b.price < 100_000);
        assert!((0.48..0.52).contains(&below_1000), "{below_1000}");
        assert!(ns.iter().all(|n| (100..=100_000_000).contains(&t.bid(*n).price)));
    }

    /// `cargo test -p millstream-connectors -- --ignored --nocapture rate_of_bids`
    #[test]
    #[ignore = "measures"]
    fn rate_of_bids() {
        let generator = crate::nexmark::Nexmark::new(0);
        let start = std::time::Instant::now();
        let rows: usize = (0..500).map(|i| generator.batch(Kind::Bid, i * 8000, (i + 1) * 8000).num_rows()).sum();
        println!("{:.1} M bids/s", rows as f64 / start.elapsed().as_secs_f64() / 1e6);
    }

    #[test]
    fn about_a_hundred_auctions_are_open_at_one_time() {
        let t = Tables::new(1, 0, 100);
        let (mut a, mut b) = (String::new(), String::new());
        let now = t.time(100_000);
        let open = (0..100_000u64)
            .filter(|n| Kind::Auction.places().contains(&(n % GROUP)))
            .filter(|n| t.auction(*n, &mut a, &mut b).expires > now)
            .count();
        assert!((50..200).contains(&open), "{open}");
    }
}
