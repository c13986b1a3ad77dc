//! A webhook's other end: a real HTTP server that fails, hangs and accepts as a test says.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// What becomes of a call.
#[derive(Debug, Clone)]
pub enum Answer {
    /// An answer with such a first line, and further headers.
    Says(&'static str),
    /// Nothing is ever said.
    Hangs,
}

pub const TAKEN: Answer = Answer::Says("204 No Content");
pub const FAILED: Answer = Answer::Says("500 Internal Server Error");

/// What a call sent.
#[derive(Debug, Clone)]
pub struct Call {
    pub headers: HashMap<String, String>,
    pub body: String,
    /// Whether it was told that the message is taken.
    pub taken: bool,
}

impl Call {
    pub fn header(&self, name: &str) -> &str {
        &self.headers[name]
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

pub struct Receiver {
    pub address: SocketAddr,
    calls: mpsc::UnboundedReceiver<Call>,
    plan: Arc<Mutex<(VecDeque<Answer>, Answer)>>,
}

impl Receiver {
    /// One that answers as planned, and then always in one way.
    pub async fn start(first: &[Answer], then: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let plan = Arc::new(Mutex::new((first.iter().cloned().collect::<VecDeque<_>>(), then)));
        let (sender, calls) = mpsc::unbounded_channel();
        let planned = Arc::clone(&plan);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&planned), sender.clone()));
            }
        });
        Self { address, calls, plan }
    }

    /// From now on it answers in this way.
    pub fn now(&self, answer: Answer) {
        *self.plan.lock().unwrap() = (VecDeque::new(), answer);
    }

    pub fn url(&self) -> String {
        format!("http://{}/hooks/secret-path", self.address)
    }

    /// The next call.
    pub async fn call(&mut self) -> Call {
        self.calls.recv().await.unwrap()
    }

    /// The next call that it takes.
    pub async fn taken(&mut self) -> Call {
        loop {
            let call = self.call().await;
            if call.taken {
                return call;
            }
        }
    }

    /// Whether nobody has called since the last one.
    pub fn is_quiet(&mut self) -> bool {
        self.calls.try_recv().is_err()
    }
}

async fn answer(
    stream: TcpStream,
    plan: Arc<Mutex<(VecDeque<Answer>, Answer)>>,
    calls: mpsc::UnboundedSender<Call>,
) {
    let mut stream = BufReader::new(stream);
    let (mut line, mut headers) = (String::new(), HashMap::new());
    loop {
        line.clear();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        match line.trim_end().split_once(": ") {
            Some((name, value)) => drop(headers.insert(name.to_lowercase(), value.to_owned())),
            None if line.trim_end().is_empty() => break,
            None => {}
        }
    }
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    let answer = {
        let mut plan = plan.lock().unwrap();
        let then = plan.1.clone();
        plan.0.pop_front().unwrap_or(then)
    };
    let taken = matches!(answer, Answer::Says(line) if line.starts_with('2'));
    // A test that has ended listens no more.
    let _ = calls.send(Call { headers, body: String::from_utf8(body).unwrap(), taken });
    match answer {
        Answer::Hangs => std::future::pending().await,
        Answer::Says(line) => {
            let text = format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(text.as_bytes()).await;
        }
    }
}
