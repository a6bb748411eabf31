//! The text that Prometheus reads: <https://prometheus.io/docs/instrumenting/exposition_formats/>.
//!
//! Written by hand, because a recorder that is global to the process cannot tell two gateways apart, and
//! tests and demo run many.

use std::fmt::{Display, Write};

/// The media type of a [`Page`].
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page of metrics.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, value);
    }

    /// A number that only goes up.
    pub fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "counter", help);
        self.sample(name, value);
    }

    /// Numbers that only go up, told apart by a label.
    pub fn counters<V: Display>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'static str, V)>,
    ) {
        self.family(name, "counter", help);
        for (of, value) in values {
            self.sample(&format!("{name}{{{label}=\"{of}\"}}"), value);
        }
    }

    /// How something is distributed.
    pub fn summary(
        &mut self,
        name: &str,
        help: &str,
        quantiles: impl IntoIterator<Item = (&'static str, f64)>,
        sum: f64,
        count: u64,
    ) {
        self.family(name, "summary", help);
        for (quantile, value) in quantiles {
            self.sample(&format!("{name}{{quantile=\"{quantile}\"}}"), value);
        }
        self.sample(&format!("{name}_sum"), sum);
        self.sample(&format!("{name}_count"), count);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Names, labels and help are this program's own, so there is nothing to escape.
    fn sample(&mut self, name: &str, value: impl Display) {
        let _ = writeln!(self.0, "{name} {value}");
    }

    pub fn into_text(self) -> String {
        self.0
    }
}
