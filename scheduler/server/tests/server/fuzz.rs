//! Random and mutated bytes against every call, the port and the agents' stream: nothing panics, nothing is
//! answered UNKNOWN, nothing grows, and the scheduler serves on.

#[path = "support/schema.rs"]
mod schema;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prost::Message as _;
use prost::bytes::{Buf as _, BufMut as _};
use schema::{Method, Schema};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Status};
use trainyard_proto::pb;
use trainyard_proto::pb::agent_message::Message as FromAgent;
use trainyard_proto::pb::scheduler_message::Message as ToAgent;

use crate::support::{Agent, Scheduler, log, started, submission};

/// How long answers are listened to; some calls have no end of their own.
const HEARING: Duration = Duration::from_millis(300);
/// Memory that connections and the jobs that got through may take, in MiB.
const GROWTH: u64 = 150;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % end as u64).unwrap()
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most)).map(|_| u8::try_from(self.below(256)).unwrap()).collect()
    }

    /// Small ones, and those at the edges.
    fn number(&mut self) -> u64 {
        match self.below(8) {
            0 => u64::MAX,
            1 => u64::MAX >> self.below(64),
            2 => 1 << 31,
            _ => self.below(70) as u64,
        }
    }

    /// A few bytes changed, cut off, doubled or put in.
    fn mutate(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len().max(1));
            match self.below(5) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 => bytes.truncate(at),
                2 => bytes.extend_from_within(at.min(bytes.len())..),
                3 => bytes.splice(at.min(bytes.len())..at.min(bytes.len()), self.bytes(6)).for_each(drop),
                _ if !bytes.is_empty() => bytes[at] = u8::try_from(self.below(256)).unwrap(),
                _ => {}
            }
        }
        bytes
    }

    /// One for a method, or for another one.
    fn payload(&mut self, schema: &Schema, input: &str, words: &[String]) -> Vec<u8> {
        let valid = match self.below(8) {
            0 => return self.bytes(200),
            1 => submission("r").encode_to_vec(),
            2 => {
                let axes =
                    vec![pb::SweepAxis { parameter: "lr0".into(), values: vec!["0.1".into(), "1".into()] }];
                let spec = submission("").spec;
                pb::SubmitSweepRequest { spec, axes, ..Default::default() }.encode_to_vec()
            }
            _ => schema.message(self, input, words, 0),
        };
        if self.below(2) == 0 { self.mutate(valid) } else { valid }
    }
}

/// Bytes as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}

/// Sends messages to a method, and hears what comes for a moment.
async fn call(channel: Channel, path: &str, messages: Vec<Vec<u8>>) -> Option<Code> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path = path.parse().unwrap();
    let request = tonic::Request::new(tokio_stream::iter(messages));
    let hear = async {
        let mut answers = client.streaming(request, path, Raw).await?.into_inner();
        while answers.message().await?.is_some() {}
        Ok::<_, Status>(())
    };
    // A watcher or an agent hears nothing more, which is right.
    timeout(HEARING, hear).await.ok()?.err().map(|status| status.code())
}

/// Resident memory of this process, in MiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

async fn raw_bytes(scheduler: &Scheduler, rng: &mut Rng) {
    let mut stream = TcpStream::connect(scheduler.server.address()).await.unwrap();
    let bytes = match rng.below(3) {
        0 => rng.bytes(500),
        1 => [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), rng.bytes(500)].concat(),
        _ => rng.mutate(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
    };
    // The scheduler may hang up before all is said.
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = vec![0; 4096];
    let _ = timeout(HEARING, stream.read(&mut answer)).await;
}

/// The next attempt that an agent is given.
async fn assigned(agent: &mut Agent) -> Option<String> {
    loop {
        if let ToAgent::Assign(assign) = agent.command().await.ok()? {
            return Some(assign.attempt);
        }
    }
}

/// A welcome agent that talks nonsense about an attempt that it does run. Whatever a report with the right
/// number says, it is acknowledged, and the session goes on.
async fn reports(scheduler: &Scheduler, rng: &mut Rng, schema: &Schema, words: &[String], id: u128) {
    let Ok(mut agent) = Agent::connect(scheduler.channel(), id, &[]).await else { return };
    scheduler.submit(submission("")).await.unwrap();
    let Ok(Some(attempt)) = timeout(HEARING * 10, assigned(&mut agent)).await else { return };
    for sequence in 1..=5 {
        let generated = schema.message(rng, ".trainyard.v1.Report", words, 1);
        let body = match (rng.below(3), if rng.below(2) == 0 { started() } else { log("line") }) {
            (0, pb::report::Report::TrainerEvent(json)) => Some(pb::report::Report::TrainerEvent(
                String::from_utf8_lossy(&rng.mutate(json.into_bytes())).into_owned(),
            )),
            (1, body) => Some(body),
            _ => pb::Report::decode(&*generated).ok().and_then(|report| report.report),
        };
        let report = pb::Report { attempt: attempt.clone(), sequence, time: None, report: body };
        agent.say(FromAgent::Report(report)).await;
        let acknowledged = async {
            loop {
                match agent.command().await {
                    Ok(ToAgent::Ack(ack)) if ack.attempt == attempt && ack.sequence >= sequence => {
                        return true;
                    }
                    // The attempt has ended, by an earlier report or by a caller.
                    Ok(ToAgent::Revoke(revoke)) if revoke.attempt == attempt => return false,
                    Ok(_) => {}
                    Err(status) => panic!("a report has ended the session: {status:?}"),
                }
            }
        };
        if !acknowledged.await {
            break;
        }
    }
    let others = [".trainyard.v1.Heartbeat", ".trainyard.v1.Telemetry", ".trainyard.v1.DataChecked"];
    for _ in 0..3 {
        // These may end the session.
        let kind = rng.below(others.len());
        let generated = schema.message(rng, others[kind], words, 1);
        let message = match kind {
            0 => pb::Heartbeat::decode(&*generated).map(FromAgent::Heartbeat),
            1 => pb::Telemetry::decode(&*generated).map(FromAgent::Telemetry),
            _ => pb::DataChecked::decode(&*generated).map(FromAgent::DataChecked),
        };
        let Ok(message) = message else { continue };
        if agent.try_say(message).await.is_err() {
            return;
        }
    }
}

/// `TRAINYARD_FUZZ_SEED=17` shows one run again, `TRAINYARD_FUZZ_ROUNDS=100000` makes it longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_harms_nothing() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("TRAINYARD_FUZZ_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    let rounds = number("TRAINYARD_FUZZ_ROUNDS").unwrap_or(600);
    println!("TRAINYARD_FUZZ_SEED={seed}");
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        before(info);
    }));
    let schema = Schema::new(&[
        pb::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ]);
    let scheduler = Scheduler::start().await;
    let job = scheduler.submit(submission("first")).await.unwrap().id;
    let agent = uuid::Uuid::from_u128(100).to_string();
    let words = [&job, &format!("{job}/1"), &agent, "agent-100", "GPU-1", "yolov8n", "/data/d.yaml", "cpu"];
    let words = words.map(str::to_owned);
    let mut rng = Rng(seed);
    let at_first = memory();
    for round in 0..rounds {
        match rng.below(12) {
            0 => raw_bytes(&scheduler, &mut rng).await,
            1 => reports(&scheduler, &mut rng, &schema, &words, u128::from(round % 20) + 100).await,
            2 => {
                let code = call(scheduler.channel(), "/trainyard.v1.JobService/NoSuchMethod", vec![]).await;
                assert_eq!(code, Some(Code::Unimplemented));
            }
            _ => {
                let Method { path, input } = &schema.methods[rng.below(schema.methods.len())];
                let messages = (0..=rng.below(2)).map(|_| rng.payload(&schema, input, &words)).collect();
                let code = call(scheduler.channel(), path, messages).await;
                assert_ne!(code, Some(Code::Unknown), "{path} in round {round}");
            }
        }
    }
    assert_eq!(PANICS.load(Ordering::SeqCst), 0);
    let grown = memory().saturating_sub(at_first);
    assert!(grown < GROWTH, "memory has grown by {grown} MiB");
    assert!(!scheduler.get(&job).await.id.is_empty());
}
