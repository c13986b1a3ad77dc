//! `docs/reference/grpc.md` is written from the protos: it says what they say.
#![allow(clippy::unwrap_used, reason = "a test ends where its ground does")]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
};
use trainyard_proto::pb::DESCRIPTORS;

/// Places of descriptors within their file: `descriptor.proto` numbers the kinds.
const MESSAGE: i32 = 4;
const ENUM: i32 = 5;
const SERVICE: i32 = 6;
const FIELD: i32 = 2;
const VALUE: i32 = 2;
const METHOD: i32 = 2;
const INNER: i32 = 3;

const HEAD: &str = "# gRPC: methods, messages and fields

Written from the comments of `proto/trainyard/v1/*.proto`; a test of `trainyard-proto` holds the two
together. How to call, and what errors mean, says [HTTP pages and gRPC](http-and-grpc.md).
";

/// What stands above each descriptor, by its place.
struct Comments(HashMap<Vec<i32>, String>);

impl Comments {
    fn of(file: &FileDescriptorProto) -> Self {
        let places = file.source_code_info.iter().flat_map(|info| &info.location);
        let text =
            |comment: &str| comment.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
        Self(places.map(|place| (place.path.clone(), text(place.leading_comments()))).collect())
    }

    fn at(&self, path: &[i32]) -> &str {
        self.0.get(path).map_or("", String::as_str)
    }
}

fn short(name: &str) -> &str {
    name.trim_start_matches('.').trim_start_matches("trainyard.v1.")
}

fn kind(field: &FieldDescriptorProto, message: &DescriptorProto) -> String {
    let name = match field.type_name() {
        "" => format!("{:?}", field.r#type()).to_lowercase(),
        named => short(named).to_owned(),
    };
    let entry = message.nested_type.iter().find(|inner| {
        field.r#type() == Type::Message
            && inner.options.as_ref().is_some_and(|options| options.map_entry())
            && field.type_name().ends_with(&format!(".{}.{}", message.name(), inner.name()))
    });
    if let Some(entry) = entry {
        let [key, value] = [0, 1].map(|at| kind(&entry.field[at], entry));
        return format!("map of {key} to {value}");
    }
    match field.label() {
        Label::Repeated => format!("repeated {name}"),
        _ if field.proto3_optional() => format!("optional {name}"),
        _ => name,
    }
}

fn message(out: &mut String, scope: &str, path: &[i32], message: &DescriptorProto, comments: &Comments) {
    let name = format!("{scope}{}", message.name());
    write!(out, "\n### {name}\n").unwrap();
    paragraph(out, comments.at(path));
    if !message.field.is_empty() {
        out.push_str("\n| field | type | meaning |\n|---|---|---|\n");
    }
    for (at, field) in (0..).zip(&message.field) {
        let meaning = comments.at(&[path, &[FIELD, at]].concat());
        writeln!(out, "| `{}` | {} | {meaning} |", field.name(), kind(field, message)).unwrap();
    }
    for (at, inner) in (0..).zip(&message.enum_type) {
        enumeration(out, &format!("{name}."), &[path, &[MESSAGE, at]].concat(), inner, comments);
    }
    let is_entry =
        |inner: &DescriptorProto| inner.options.as_ref().is_some_and(|options| options.map_entry());
    for (at, inner) in (0..).zip(&message.nested_type).filter(|(_, inner)| !is_entry(inner)) {
        self::message(out, &format!("{name}."), &[path, &[INNER, at]].concat(), inner, comments);
    }
}

fn enumeration(
    out: &mut String,
    scope: &str,
    path: &[i32],
    found: &EnumDescriptorProto,
    comments: &Comments,
) {
    write!(out, "\n### {scope}{}\n", found.name()).unwrap();
    paragraph(out, comments.at(path));
    out.push_str("\n| value | meaning |\n|---|---|\n");
    for (at, value) in (0..).zip(&found.value) {
        writeln!(out, "| `{}` | {} |", value.name(), comments.at(&[path, &[VALUE, at]].concat())).unwrap();
    }
}

/// In lines of a hundred columns, as all prose is.
fn paragraph(out: &mut String, text: &str) {
    let mut column = 0;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let breaks = column == 0 || column + 1 + word.len() > 100;
        out.push(if breaks { '\n' } else { ' ' });
        column = if breaks { word.len() } else { column + 1 + word.len() };
        out.push_str(word);
    }
    if column > 0 {
        out.push('\n');
    }
}

fn page() -> String {
    let mut out = HEAD.to_owned();
    for file in FileDescriptorSet::decode(DESCRIPTORS).unwrap().file {
        if !file.package().starts_with("trainyard") {
            continue;
        }
        let comments = Comments::of(&file);
        for (at, service) in (0..).zip(&file.service) {
            write!(out, "\n## {}\n", service.name()).unwrap();
            paragraph(&mut out, comments.at(&[SERVICE, at]));
            out.push_str("\n| method | takes | answers | meaning |\n|---|---|---|---|\n");
            for (number, method) in (0..).zip(&service.method) {
                let stream = |is: bool| if is { "stream of " } else { "" };
                writeln!(
                    out,
                    "| `{}` | {}{} | {}{} | {} |",
                    method.name(),
                    stream(method.client_streaming()),
                    short(method.input_type()),
                    stream(method.server_streaming()),
                    short(method.output_type()),
                    comments.at(&[SERVICE, at, METHOD, number]),
                )
                .unwrap();
            }
        }
        write!(out, "\n## Messages of `{}`\n", file.name()).unwrap();
        for (at, one) in (0..).zip(&file.enum_type) {
            enumeration(&mut out, "", &[ENUM, at], one, &comments);
        }
        for (at, one) in (0..).zip(&file.message_type) {
            message(&mut out, "", &[MESSAGE, at], one, &comments);
        }
    }
    out
}

/// `TRAINYARD_BLESS=1 cargo test` writes the page.
#[test]
fn the_page_says_what_the_protos_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/grpc.md");
    let page = page();
    if std::env::var_os("TRAINYARD_BLESS").is_some() {
        std::fs::write(&path, page).unwrap();
        return;
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/reference/grpc.md is not current: write it with TRAINYARD_BLESS=1");
}
