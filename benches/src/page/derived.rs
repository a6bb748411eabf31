//! More cores than were measured: derived from a count and two times.

use super::{All, line};
use crate::targets::scaling;

const CORES: [u32; 3] = [16, 64, 128];

/// A line that two threads change is at one of them at a time, so all threads together cannot change it more often
/// than it can move.
pub(super) fn write(page: &mut String, all: &All) {
    let figures = (|| {
        let timings = all.get("S1")?.data.group(scaling::ACQUIRE)?;
        let at = |name, threads| Some(timings.timing(name, Some(threads))?.spread().median);
        let writes = |what: &str| {
            let what = format!("{}acquire + release, {what}", scaling::WRITES);
            all.get("S4")?.data.figures(&what, "cloakroom").first().copied()
        };
        let moving = at(scaling::ONE_LINE, 2)? / 2.0;
        Some((at("cloakroom", 2)?, moving, writes("far from the limit")?, writes(scaling::SMALL)?))
    })();
    let Some((own, moving, far, small)) = figures else { return };
    page.push_str("\n## More cores, derived and not measured\n\n");
    line(
        page,
        format_args!(
            "A cache line that several threads change moves between their cores, and the changes are done one after \
             another. On this machine one change takes {moving:.0} ns while two threads do nothing else; between \
             sockets it takes longer. So a budget whose threads make *w* such changes an operation does at most \
             1 / (*w* x {moving:.0} ns) operations, with any number of cores; and *n* cores do at most *n* times what \
             one does, which takes {own:.0} ns. `.ci/count` counts *w* for acquire + release: {far:.5} far from the \
             limit, {small:.2} for a budget that is too small to lend. In operations per microsecond, at most:\n\n\
             | cores | room is lent | all threads change one atomic |\n|---|---|---|"
        ),
    );
    for cores in CORES {
        let most = |writes: f64| (f64::from(cores) * 1e3 / own).min(1e3 / (writes * moving));
        line(page, format_args!("| {cores} | {:.0} | {:.0} |", most(far), most(small)));
    }
}
