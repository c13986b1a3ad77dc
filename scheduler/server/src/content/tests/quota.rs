//! What a user may keep, and pushes that come together.

use super::*;

fn named(name: &str, files: &[(&str, &[u8])]) -> Wanted {
    Wanted { name: name.into(), ..wanted("ada", files) }
}

#[tokio::test]
async fn a_full_quota_says_how_much_is_used_and_by_what() {
    let fixture = Fixture::new();
    let content = fixture.content(Some(20));
    push(&content, "ada", FILES, 100).await.unwrap();
    let more: &[(&str, &[u8])] = &[FILES[0], ("images/9.jpg", b"0123456789")];
    let error = push(&content, "ada", more, 100).await.unwrap_err().to_string();
    assert!(error.contains("ada would have 23 B") && error.contains("20 B are allowed"), "{error}");
    assert!(
        error.contains("13 B are stored, other pushes under way bring 0 B, and this one 10 B"),
        "{error}"
    );
    assert!(error.contains("cells@") && !error.contains("wait"), "{error}");
}

#[tokio::test]
async fn a_quota_holds_for_pushes_under_way_until_they_end() {
    let fixture = Fixture::new();
    let content = fixture.content(Some(20));
    let (one, two) = (("data.yaml", &b"0123456789ab"[..]), ("data.yaml", &b"ba9876543210"[..]));
    let first = content.push(named("one", &[one])).await.unwrap();
    let error = content.push(named("two", &[two])).await.err().unwrap().to_string();
    assert!(error.contains("ada would have 24 B") && error.contains("20 B are allowed"), "{error}");
    assert!(
        error.contains("0 B are stored, other pushes under way bring 12 B, and this one 12 B"),
        "{error}"
    );
    assert!(error.ends_with("or wait for the other pushes"), "{error}");
    // Others have their own, and a push that is begun anew is no second one.
    drop(content.push(Wanted { name: "other".into(), ..wanted("bob", &[two]) }).await.unwrap());
    drop(content.push(named("one", &[one])).await.unwrap());
    drop(first);
    let second = content.push(named("two", &[two])).await.unwrap();
    drop(second);
}

#[tokio::test]
async fn a_push_that_began_before_another_scheduler_took_one_is_refused_at_its_end() {
    let fixture = Fixture::new();
    let (content, other) = (fixture.content(Some(20)), fixture.content(Some(20)));
    let (one, two) = (("data.yaml", &b"0123456789ab"[..]), ("data.yaml", &b"ba9876543210"[..]));
    let mut first = content.push(named("one", &[one])).await.unwrap();
    let mut second = other.push(named("two", &[two])).await.unwrap();
    first.take(Bytes::from_static(one.1)).await.unwrap();
    second.take(Bytes::from_static(two.1)).await.unwrap();
    first.finish(Time(1)).await.unwrap();
    let error = second.finish(Time(2)).await.unwrap_err();
    assert!(matches!(error, PushError::Quota { used: 12, more: 12, allowed: 20, .. }), "{error}");
    assert_eq!(content.list(|_| true).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_broken_pushes_have_stored_counts_when_it_becomes_a_version() {
    let fixture = Fixture::new();
    let content = fixture.content(Some(20));
    push(&content, "ada", &[("data.yaml", b"0123456789")], 100).await.unwrap();
    let files: &[(&str, &[u8])] = &[("data.yaml", b"abcdef"), ("images/1.jpg", b"ghijkl")];
    // Each alone would fit beside what is there.
    for file in files {
        let mut broken = content.push(named("two", &[("data.yaml", file.1), ("z", b"zz")])).await.unwrap();
        broken.take(Bytes::copy_from_slice(file.1)).await.unwrap();
        broken.break_off().await;
    }
    let whole = content.push(named("two", files)).await.unwrap();
    assert_eq!(whole.missing_bytes(), 0);
    let error = whole.finish(Time(2)).await.unwrap_err();
    assert!(matches!(error, PushError::Quota { used: 10, more: 12, .. }), "{error}");
}
