//! The sample data: orders that are the same on every machine and in every run.

use rusqlite::{Connection, Transaction, params};

const REGIONS: [&str; 5] = ["africa", "americas", "asia", "europe", "oceania"];
const PRODUCTS: [&str; 7] = ["anvil", "bolt", "clamp", "drill", "elbow", "flange", "gasket"];

/// Creates the tables and fills them with `rows` orders, numbered from 0.
pub fn fill(connection: &mut Connection, rows: u32) -> rusqlite::Result<()> {
    connection.execute_batch(
        "CREATE TABLE orders (
            id INTEGER PRIMARY KEY,
            day INTEGER NOT NULL,
            region TEXT NOT NULL,
            product TEXT NOT NULL,
            quantity INTEGER NOT NULL,
            amount_cents INTEGER NOT NULL,
            note TEXT
        );
        CREATE INDEX orders_by_region ON orders (region, id);",
    )?;
    let transaction = connection.transaction()?;
    insert(&transaction, rows)?;
    transaction.commit()
}

fn insert(transaction: &Transaction<'_>, rows: u32) -> rusqlite::Result<()> {
    let mut statement =
        transaction.prepare("INSERT INTO orders VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
    for id in 0..rows {
        let bits = scramble(u64::from(id));
        let quantity = 1 + small(bits, 20);
        let note = bits.is_multiple_of(4).then(|| format!("order {id}, batch {:x}", bits >> 40));
        statement.execute(params![
            id,
            id / 500,
            pick(&REGIONS, bits >> 8),
            pick(&PRODUCTS, bits >> 16),
            quantity,
            quantity * (100 + small(bits >> 24, 9_900)),
            note,
        ])?;
    }
    Ok(())
}

/// A number below `bound`.
fn small(bits: u64, bound: u32) -> u32 {
    (bits % u64::from(bound)) as u32
}

fn pick(from: &[&'static str], bits: u64) -> &'static str {
    from[(bits % from.len() as u64) as usize]
}

/// Spreads a counter over 64 bits: multiplications by odd constants and shifts, so a bijection.
fn scramble(counter: u64) -> u64 {
    let mut bits = counter.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    bits ^ (bits >> 32)
}
