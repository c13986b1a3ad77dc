//! Lists with filters.

use std::collections::BTreeMap;
use std::sync::Arc;

use trainyard_scheduler_core::list::{Filter, LOOKED_AT};
use trainyard_scheduler_core::{Content, Event};
use trainyard_types::{JobId, JobSpec, JobState};

use crate::job_groups::{group, sweep};
use crate::world::{World, cpu_spec, job};

fn all(world: &World, filter: &Filter, size: usize) -> Vec<JobId> {
    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let page = world.core.list(filter, before, size);
        assert!(page.jobs.len() <= size);
        found.extend(page.jobs);
        before = page.next;
        if before.is_none() {
            return found;
        }
    }
}

fn labelled(team: &str, name: &str) -> JobSpec {
    JobSpec { labels: BTreeMap::from([("team".into(), team.into())]), name: name.into(), ..cpu_spec() }
}

#[test]
fn every_part_of_a_filter_must_fit_and_pages_do_not_change_what_is_found() {
    let mut world = World::new();
    for number in 1..=9_u128 {
        let spec = labelled(if number.is_multiple_of(3) { "red" } else { "blue" }, &format!("run-{number}"));
        world.submit_as(if number <= 5 { "ada" } else { "bob" }, number, spec);
    }
    world.cancel(3);
    world.cancel(9);
    let team = |team: &str| BTreeMap::from([("team".to_owned(), team.to_owned())]);
    let cancelled = [JobState::Cancelled].into();
    let any = Filter::default;
    let table = [
        (any(), vec![9, 8, 7, 6, 5, 4, 3, 2, 1]),
        (Filter { labels: team("red"), ..any() }, vec![9, 6, 3]),
        (Filter { labels: team("red"), user: "bob".into(), ..any() }, vec![9, 6]),
        (Filter { labels: team("red"), states: cancelled, ..any() }, vec![9, 3]),
        (
            Filter { states: [JobState::Queued, JobState::Cancelled].into(), user: "ada".into(), ..any() },
            vec![5, 4, 3, 2, 1],
        ),
        (Filter { name_prefix: "run-7".into(), ..any() }, vec![7]),
        (Filter { user: "cleo".into(), ..any() }, vec![]),
        (Filter { states: [JobState::Running].into(), ..any() }, vec![]),
    ];
    for (filter, expected) in table {
        let expected: Vec<JobId> = expected.into_iter().map(job).collect();
        for size in [1, 2, 3, 100] {
            assert_eq!(all(&world, &filter, size), expected, "{filter:?} by {size}");
        }
        let whole = world.core.list(&filter, None, expected.len().max(1));
        assert_eq!(whole.next, None, "a full last page has no next one");
    }
}

#[test]
fn a_sweeps_jobs_are_found_by_its_id_and_by_what_its_grid_says() {
    let mut world = World::new();
    let record = group(1, "r", Content::Sweep(sweep()));
    let id = record.id;
    world.handle(Event::SubmitGroup { group: record });
    world.submit(9, cpu_spec());
    let of_sweep = Filter { group: Some(id), ..Filter::default() };
    assert_eq!(all(&world, &of_sweep, 3), [id.job(3), id.job(2), id.job(1), id.job(0)]);
    let labels = BTreeMap::from([("lr0".to_owned(), "0.02".to_owned())]);
    assert_eq!(all(&world, &Filter { labels, ..Filter::default() }, 10), [id.job(3), id.job(2)]);
    let labels = BTreeMap::from([("sweep".to_owned(), id.to_string())]);
    assert_eq!(all(&world, &Filter { labels, ..Filter::default() }, 10).len(), 4);
}

#[test]
fn one_page_looks_at_so_many_jobs_and_no_more() {
    let mut world = World::new();
    world.submit(1, labelled("red", "the first"));
    let specs = std::iter::repeat_n(Arc::new(cpu_spec()), LOOKED_AT + 5).collect();
    world.core.handle(world.now, Event::SubmitGroup { group: group(1, "r", Content::Specs(specs)) });
    let filter = Filter { name_prefix: "the first".into(), ..Filter::default() };
    let page = world.core.list(&filter, None, 10);
    assert!(page.jobs.is_empty() && page.next.is_some());
    assert_eq!(all(&world, &filter, 10), [job(1)]);
}
