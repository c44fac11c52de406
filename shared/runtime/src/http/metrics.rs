//! Metrics in the Prometheus text format, and those that every server has: its requests.
//!
//! What a server knows of itself is read when it is asked for it, so it costs nothing otherwise; only requests are counted
//! as they are answered.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use prometheus::core::Collector;
use prometheus::{
    Counter, CounterVec, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, Opts, Registry, TextEncoder,
};

/// Upper bounds, seconds: from a point read to the longest wait for a store.
const BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Counts a server's requests. Cheap to clone.
#[derive(Clone)]
pub struct Requests(Arc<(CounterVec, HistogramVec)>);

impl Default for Requests {
    fn default() -> Self {
        let total = Opts::new("http_requests_total", "Requests that were answered");
        let total = CounterVec::new(total, &["method", "route", "status"]).expect("the names are valid");
        let duration = HistogramOpts::new(
            "http_request_duration_seconds",
            "From a request's head to the head of its answer; waits for a store included",
        );
        let duration = duration.buckets(BUCKETS.to_vec());
        Self(Arc::new((total, HistogramVec::new(duration, &["method", "route"]).expect("the names are valid"))))
    }
}

impl std::fmt::Debug for Requests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Requests").finish_non_exhaustive()
    }
}

impl Requests {
    /// A request was answered. `route`: the pattern that its path has matched, if one has. `usual`: of the same route.
    pub(super) fn answered(
        &self,
        usual: &Usual,
        method: &Method,
        route: Option<&str>,
        status: StatusCode,
        after: Duration,
    ) {
        let found = match usual.0.get() {
            None if status.is_success() => Some(usual.0.get_or_init(|| self.series(method, route, status))),
            found => found,
        };
        let series = match found {
            Some(series) if series.method == *method && series.status == status => series,
            _ => &self.series(method, route, status),
        };
        series.total.inc();
        series.duration.observe(after.as_secs_f64());
    }

    fn series(&self, method: &Method, route: Option<&str>, status: StatusCode) -> Series {
        // Whoever asks may choose any method and any path: neither makes a series of its own.
        let name = match *method {
            Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::PATCH | Method::DELETE => method.as_str(),
            _ => "other",
        };
        let route = route.map_or("none", |route| route.strip_prefix("/v1").unwrap_or(route));
        let (total, duration) = &*self.0;
        Series {
            method: method.clone(),
            status,
            total: total.with_label_values(&[name, route, status.as_str()]),
            duration: duration.with_label_values(&[name, route]),
        }
    }
}

/// Where most answers of one route are counted: it is looked up by its labels only once.
#[derive(Debug, Default)]
pub(super) struct Usual(OnceLock<Series>);

#[derive(Debug)]
struct Series {
    method: Method,
    status: StatusCode,
    total: Counter,
    duration: Histogram,
}

/// Entries of a ledger since this process began, by type: counted behind a place that moves on with each look.
#[derive(Debug)]
pub struct Tally<Place>(Mutex<(Place, BTreeMap<String, u64>)>);

impl<Place: Copy + PartialEq> Tally<Place> {
    /// Begins behind a place.
    pub fn behind(place: Place) -> Self {
        Self(Mutex::new((place, BTreeMap::new())))
    }

    /// Up to where it has counted.
    pub fn place(&self) -> Place {
        self.0.lock().0
    }

    /// Counts what stands behind `from` up to `to`, unless somebody else has counted it meanwhile.
    pub fn add(&self, from: Place, to: Place, types: impl IntoIterator<Item = String>) {
        let mut tally = self.0.lock();
        let (place, counts) = &mut *tally;
        if *place == from {
            *place = to;
            types.into_iter().for_each(|kind| *counts.entry(kind).or_default() += 1);
        }
    }

    /// How many of each type.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.0.lock().1.clone()
    }
}

/// What a server tells when it is asked for its metrics.
#[derive(Debug, Default)]
pub struct Exposition(Registry);

impl Exposition {
    /// Begins with what all servers have.
    pub fn new(version: &str, requests: &Requests) -> Self {
        let exposition = Self::default();
        let (total, duration) = &*requests.0;
        exposition.add(total.clone());
        exposition.add(duration.clone());
        exposition.gauges("shelfstream_build_info", "1; the version is in the label", &["version"], [([version], 1.0)]);
        exposition
    }

    fn add(&self, metric: impl Collector + 'static) {
        self.0.register(Box::new(metric)).expect("each name stands once");
    }

    /// A value that goes up and down.
    pub fn gauge(&self, name: &str, help: &str, value: f64) {
        let gauge = Gauge::new(name, help).expect("the name is valid");
        gauge.set(value);
        self.add(gauge);
    }

    /// A value that goes up and down, for each of some labels' values.
    pub fn gauges<'a, const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: &[&str; N],
        values: impl IntoIterator<Item = ([&'a str; N], f64)>,
    ) {
        let gauges = GaugeVec::new(Opts::new(name, help), labels).expect("the names are valid");
        for (of, value) in values {
            gauges.with_label_values(&of).set(value);
        }
        self.add(gauges);
    }

    /// What only grows, but for a restart.
    pub fn counter(&self, name: &str, help: &str, value: u64) {
        let counter = Counter::new(name, help).expect("the name is valid");
        counter.inc_by(value as f64);
        self.add(counter);
    }

    /// What only grows, but for a restart, for each value of a label.
    pub fn counters<'a>(&self, name: &str, help: &str, label: &str, values: impl IntoIterator<Item = (&'a str, u64)>) {
        let counters = CounterVec::new(Opts::new(name, help), &[label]).expect("the names are valid");
        for (of, value) in values {
            counters.with_label_values(&[of]).inc_by(value as f64);
        }
        self.add(counters);
    }
}

impl IntoResponse for Exposition {
    fn into_response(self) -> Response {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.0.gather(), &mut text).expect("every family has a value");
        ([(header::CONTENT_TYPE, TextEncoder::new().format_type().to_owned())], text).into_response()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn told(exposition: Exposition) -> String {
        let body = exposition.into_response().into_body().collect().await.expect("reads").to_bytes();
        String::from_utf8(body.to_vec()).expect("text")
    }

    #[tokio::test]
    async fn requests_are_counted_by_route_and_not_by_what_callers_make_up() {
        let (requests, usual) = (Requests::default(), Usual::default());
        let answered = |method: &str, route, status| {
            let method = method.parse().expect("a method");
            requests.answered(
                &usual,
                &method,
                route,
                StatusCode::from_u16(status).expect("a status"),
                Duration::from_millis(3),
            );
        };
        answered("GET", Some("/v1/inventory/{productId}"), 200);
        answered("GET", Some("/inventory/{productId}"), 200);
        answered("GET", Some("/v1/inventory/{productId}"), 404);
        answered("HEAD", Some("/v1/inventory/{productId}"), 200);
        answered("BREW", None, 404);
        answered("STEEP", None, 404);
        let text = told(Exposition::new("0.1.0", &requests)).await;
        for line in [
            r#"http_requests_total{method="GET",route="/inventory/{productId}",status="200"} 2"#,
            r#"http_requests_total{method="GET",route="/inventory/{productId}",status="404"} 1"#,
            r#"http_requests_total{method="HEAD",route="/inventory/{productId}",status="200"} 1"#,
            r#"http_requests_total{method="other",route="none",status="404"} 2"#,
            r#"http_request_duration_seconds_bucket{method="GET",route="/inventory/{productId}",le="0.0025"} 0"#,
            r#"http_request_duration_seconds_bucket{method="GET",route="/inventory/{productId}",le="0.005"} 3"#,
            r#"shelfstream_build_info{version="0.1.0"} 1"#,
        ] {
            assert!(text.lines().any(|told| told == line), "{line} is not in {text}");
        }
    }

    #[test]
    fn what_two_have_looked_at_counts_once() {
        let tally = Tally::behind(3);
        let sold = |many| vec!["sold".to_owned(); many];
        let (one, other) = (tally.place(), tally.place());
        tally.add(one, 5, sold(2));
        tally.add(other, 6, sold(3));
        assert_eq!((tally.place(), tally.counts()["sold"]), (5, 2));
        tally.add(5, 6, sold(1));
        assert_eq!((tally.place(), tally.counts()["sold"]), (6, 3));
    }

    #[tokio::test]
    async fn a_name_is_told_as_it_is() {
        let exposition = Exposition::default();
        exposition.gauges("stores", "Of a \"store\"\nand more", &["store_id"], [(["a\"b\\c"], 2.5)]);
        exposition.gauge("nan", "Not known", f64::NAN);
        exposition.gauges("none", "Of nobody", &["store_id"], []);
        exposition.counter("events_total", "Events", 7);
        exposition.counters("by_type_total", "Events", "type", [("sold", 3)]);
        let text = told(exposition).await;
        assert!(text.contains("# HELP stores Of a \"store\"\\nand more"), "{text}");
        for line in
            [r#"stores{store_id="a\"b\\c"} 2.5"#, "nan NaN", "events_total 7", r#"by_type_total{type="sold"} 3"#]
        {
            assert!(text.lines().any(|told| told == line), "{line} is not in {text}");
        }
    }
}
