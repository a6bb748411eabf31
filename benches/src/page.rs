//! stub
use crate::results::Data;
pub(crate) fn write() -> std::io::Result<()> {
    Ok(())
}
pub(crate) fn print(_target: &str, data: &Data) {
    for group in &data.groups {
        println!("  {}", group.title);
        let base = &group.timings[0];
        for t in &group.timings {
            let s = t.spread();
            let r = t.ratio(base);
            println!(
                "    {:<28} {:>9} {:>9.1} ns  {:.2} ({:.2} to {:.2})",
                t.name,
                t.x.map_or(String::new(), |x| x.to_string()),
                s.median,
                r.median,
                r.q1,
                r.q3
            );
        }
    }
}
