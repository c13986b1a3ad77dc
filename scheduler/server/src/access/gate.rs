//! Who calls, and whether they may: one middleware for gRPC and pages alike.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use trainyard_access::Token;
use trainyard_types::{AgentId, Time};

use super::audit::{Audit, LateTarget, Target};
use super::audited_body::AuditedBody;
use super::caller::Caller;
use super::denials::{self, Refused};
use super::exposed_token;
use super::guarded_body::GuardedBody;
use super::local_name::foreign_name;
use super::permissions::{self, Method, Needs};
use super::registry::{Denied, Known, Registry};
use super::throttle::Throttle;
use super::web_page::{FromPage, from_page};
use crate::access_records::{AccessRole, AuditRecord, TokenRecord};
use crate::clock::Clock;
use crate::refusal::{self, code_name};
use crate::tls::{Peer, PeerCertificate};

/// Who submits, in a call's metadata; only believed where nobody is asked who they are.
const USER: &str = "trainyard-user";
/// In whose name an admin acts.
const AS: &str = "trainyard-as";

/// Calls of gRPC that may be under way without a token, in all: each may be a stream that stays.
const STRANGERS_CALLS: usize = 256;

/// The callers that are let in.
#[derive(Clone)]
pub enum Admission {
    /// Whoever reaches the port.
    Anybody,
    /// Whoever is on this machine, which is called so.
    ThisMachine(Arc<str>),
    /// Whom the gate knows.
    Gate(Gate),
}

/// What a scheduler that asks people who they are knows.
#[derive(Clone)]
pub struct Gate(Arc<Parts>);

struct Parts {
    registry: Arc<Registry>,
    audit: Audit,
    /// Counts wrong tokens by address; beyond it, callers with one wait.
    throttle: Throttle,
    /// Counts calls without a token by address; those beyond it are answered, and not told to the audit.
    tokenless: Throttle,
    strangers: Arc<Semaphore>,
    clock: Clock,
    sees_all: bool,
}

impl Gate {
    /// `sees_all`: whether people see jobs of others.
    pub fn new(registry: Arc<Registry>, audit: Audit, clock: Clock, sees_all: bool) -> Self {
        let (throttle, tokenless) = (Throttle::default(), Throttle::default());
        let strangers = Arc::new(Semaphore::new(STRANGERS_CALLS));
        Self(Arc::new(Parts { registry, audit, throttle, tokenless, strangers, clock, sees_all }))
    }
}

/// What a caller shows of itself.
enum Shown {
    Nothing,
    Certificate(PeerCertificate),
    Token(Token),
    /// What should be a token.
    Nonsense,
}

impl Shown {
    /// A token counts before a certificate.
    fn by(request: &Request) -> Self {
        if let Some(text) = bearer(request.headers()) {
            return text.parse().map_or(Self::Nonsense, Self::Token);
        }
        let certificate = request.extensions().get::<Peer>().and_then(|peer| peer.certificate.clone());
        certificate.map_or(Self::Nothing, Self::Certificate)
    }
}

/// What is known of what a caller shows.
enum Found {
    Nothing,
    /// The agent of a certificate, and what ends its calls.
    Agent(Result<(AgentId, CancellationToken), Denied>),
    Token(Result<Arc<Known<TokenRecord>>, Denied>),
}

/// A caller, and what ends with it.
struct Admitted {
    caller: Caller,
    /// As the audit has it: with who it is, where an admin acts in another's name.
    name: String,
    over: Option<CancellationToken>,
    /// Its place among the calls of its token.
    place: Option<OwnedSemaphorePermit>,
}

impl Admitted {
    const fn unknown() -> Self {
        Self { caller: Caller::Unknown, name: String::new(), over: None, place: None }
    }
}

/// Lets a call through with its [`Caller`] if that may make it; for a router's layer.
pub async fn admit(State(admission): State<Admission>, mut request: Request, next: Next) -> Response {
    let is_grpc = refusal::is_grpc(request.headers());
    if let Some(found) = from_page(&request) {
        let mut refused = answer(&denials::of_a_page(&found), is_grpc);
        if found == FromPage::Form {
            let is_post = request.method() == axum::http::Method::POST;
            let way =
                if is_post { StatusCode::UNSUPPORTED_MEDIA_TYPE } else { StatusCode::METHOD_NOT_ALLOWED };
            *refused.status_mut() = way;
            refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        return refused;
    }
    let parts = match &admission {
        Admission::Gate(Gate(parts)) => Arc::clone(parts),
        Admission::ThisMachine(hostname) => return unasked(Some(hostname), request, next).await,
        Admission::Anybody => return unasked(None, request, next).await,
    };
    let method = permissions::of_path(request.uri().path());
    let address = request.extensions().get::<Peer>().map(|peer| peer.address);
    if exposed_token::is_in(request.uri()) {
        let status = denials::token_in_address();
        parts.audit.tell(parts.record(None, address, &request, &status)).await;
        return answer(&status, is_grpc);
    }
    let found = parts.look_up(Shown::by(&request), address).await;
    let identified = parts.identify(&request, found, method);
    let admitted = match identified.and_then(|admitted| parts.with_place(admitted, &request, method)) {
        Ok(admitted) => admitted,
        Err(Refused { status, is_told, caller }) => {
            if is_told {
                let record = AuditRecord { caller, ..parts.record(None, address, &request, &status) };
                parts.audit.tell(record).await;
            }
            return answer(&status, is_grpc);
        }
    };
    if let Err(status) = allowed(&admitted.caller, method.needs) {
        // Whoever asks on and on without a token fills no audit. It is no wrong token, though: each page's first view asks
        // so, and a lab may have one address.
        let is_noise = admitted.caller == Caller::Unknown
            && address
                .is_some_and(|address| parts.tokenless.failed(address.ip(), parts.clock.now()).is_some());
        if !is_noise {
            let record = parts.record(Some(&admitted), address, &request, &status);
            parts.audit.tell(record).await;
        }
        return answer(&status, is_grpc);
    }
    let told = method.is_audited.then(|| parts.record(Some(&admitted), address, &request, &Status::ok("")));
    let Admitted { caller, over, place, .. } = admitted;
    // Whatever a stranger calls it, what it holds is held until it ends.
    let is_held = is_grpc || caller == Caller::Unknown;
    speak_for(&caller, request.headers_mut());
    request.extensions_mut().insert(caller);
    if let Some(over) = over.clone() {
        request = request.map(|body| GuardedBody::request(body, over));
    }
    let mut response = next.run(request).await;
    if let Some(told) = told {
        match response.extensions_mut().remove::<LateTarget>() {
            Some(target) => {
                let audit = parts.audit.clone();
                response = response.map(|body| AuditedBody::wrap(body, audit, told, target));
            }
            None => parts.audit.tell(with_outcome(told, &response)).await,
        }
    }
    match over.filter(|_| is_held) {
        Some(over) => response.map(|body| GuardedBody::answer(body, over, denials::revoked, place)),
        None => response,
    }
}

/// Lets a call through where nobody is asked who they are; `hostname` where that is for this machine alone.
async fn unasked(hostname: Option<&str>, mut request: Request, next: Next) -> Response {
    if let Some(name) = hostname.and_then(|hostname| foreign_name(&request, hostname)) {
        return answer(&denials::not_this_machine(&name), refusal::is_grpc(request.headers()));
    }
    request.extensions_mut().insert(Caller::Anybody);
    next.run(request).await
}

impl Parts {
    /// What is known of what a caller shows. What this scheduler has not heard of may have been made a moment ago, perhaps
    /// at another one: then the store is read first, unless wrong tokens came from there.
    async fn look_up(&self, shown: Shown, address: Option<SocketAddr>) -> Found {
        let now = self.clock.now();
        let found = self.registry_knows(&shown, now);
        let is_news = match (&shown, &found) {
            (Shown::Token(token), Found::Token(Err(Denied::Invalid))) => !self.registry.has_token(token.id),
            (Shown::Certificate(_), Found::Agent(Err(_))) => true,
            _ => false,
        };
        if !is_news || address.is_some_and(|address| self.throttle.is_waiting(address.ip(), now)) {
            return found;
        }
        // A store that is away leaves it unknown.
        let _unknown = self.registry.refresh().await;
        self.registry_knows(&shown, now)
    }

    fn registry_knows(&self, shown: &Shown, now: Time) -> Found {
        match shown {
            Shown::Nothing => Found::Nothing,
            Shown::Certificate(certificate) => {
                Found::Agent(self.registry.agent(certificate).map(|over| (certificate.agent, over)))
            }
            Shown::Token(token) => Found::Token(self.registry.token(token, now)),
            Shown::Nonsense => Found::Token(Err(Denied::Invalid)),
        }
    }

    /// Who makes a request, by what is known of its connection's certificate or of its token.
    fn identify(&self, request: &Request, found: Found, method: Method) -> Result<Admitted, Refused> {
        let known = match found {
            Found::Nothing => return Ok(Admitted::unknown()),
            Found::Agent(known) => {
                let (agent, over) = known.map_err(|denied| denials::denial(denied, true))?;
                let caller = Caller::Agent(agent);
                return Ok(Admitted { name: caller.name(), caller, over: Some(over), place: None });
            }
            Found::Token(known) => known,
        };
        let known = match known {
            Ok(known) => known,
            // Pages that are open to all are open to those with an old token.
            Err(_) if method.needs == Needs::Nothing => {
                return Ok(Admitted::unknown());
            }
            Err(denied) => {
                let peer = request.extensions().get::<Peer>().filter(|_| denied == Denied::Invalid);
                let wait = peer.and_then(|peer| self.throttle.failed(peer.address.ip(), self.clock.now()));
                return Err(wait.map_or_else(|| denials::denial(denied, false), denials::slow_down));
            }
        };
        let record = &known.record;
        let over = Some(known.revoked.clone());
        let place = known.calls.clone().try_acquire_owned().map_err(|_| denials::too_many_calls())?;
        let place = Some(place);
        if record.role == AccessRole::Agent {
            let caller = Caller::Joining(record.id);
            return Ok(Admitted { name: caller.name(), caller, over, place });
        }
        let user = acting_for(request.headers(), record)?.unwrap_or(&record.user);
        let name = if user == record.user { user.to_owned() } else { format!("{} as {user}", record.user) };
        let caller = Caller::Person {
            user: user.to_owned(),
            role: record.role,
            token: record.id,
            expires: record.expires,
            sees_all: self.sees_all,
        };
        Ok(Admitted { caller, name, over, place })
    }

    /// Calls of gRPC without a token share a few places. Pages take none, so that probes are answered always.
    fn with_place(&self, admitted: Admitted, request: &Request, method: Method) -> Result<Admitted, Refused> {
        let is_open = method.needs == Needs::Nothing && !permissions::is_page(request.uri().path());
        if admitted.caller != Caller::Unknown || !is_open {
            return Ok(admitted);
        }
        let place = self.strangers.clone().try_acquire_owned().map_err(|_| denials::too_many_strangers())?;
        Ok(Admitted { over: Some(CancellationToken::new()), place: Some(place), ..admitted })
    }

    fn record(
        &self,
        admitted: Option<&Admitted>,
        address: Option<SocketAddr>,
        request: &Request,
        status: &Status,
    ) -> AuditRecord {
        let path = exposed_token::kept(request.uri().path());
        AuditRecord {
            time: self.clock.now(),
            caller: admitted.map(|admitted| admitted.name.clone()).unwrap_or_default(),
            role: admitted.and_then(|admitted| admitted.caller.role()),
            address: address.map(|address| address.ip().to_string()).unwrap_or_default(),
            action: path.strip_prefix("/trainyard.v1.").unwrap_or(path).chars().take(128).collect(),
            target: String::new(),
            outcome: code_name(status.code()),
        }
    }
}

/// How a call ended, and what it was about, as its answer says.
fn with_outcome(mut record: AuditRecord, response: &Response) -> AuditRecord {
    if let Some(status) = Status::from_header_map(response.headers()) {
        record.outcome = code_name(status.code());
    }
    if let Some(Target(target)) = response.extensions().get() {
        record.target = target.clone();
    }
    record
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// In whose name an admin acts, where that is another's. Whoever is none and asks for it is refused, lest a job become
/// somebody's whose it was not to be.
fn acting_for<'a>(headers: &'a HeaderMap, token: &TokenRecord) -> Result<Option<&'a str>, Refused> {
    let user = headers.get(AS).and_then(|value| value.to_str().ok()).filter(|user| !user.is_empty());
    match user {
        Some(user) if token.role == AccessRole::Admin || user == token.user => Ok(Some(user)),
        Some(user) => Err(denials::not_for_another(&token.user, user)),
        None => Ok(None),
    }
}

/// The user of a job comes from the token, whatever the client says.
fn speak_for(caller: &Caller, headers: &mut HeaderMap) {
    headers.remove(USER);
    if let Caller::Person { user, .. } = caller
        && let Ok(user) = HeaderValue::from_str(user)
    {
        headers.insert(USER, user);
    }
}

fn allowed(caller: &Caller, needs: Needs) -> Result<(), Status> {
    let is_allowed = match caller {
        Caller::Anybody => true,
        Caller::Unknown if needs == Needs::Nothing => true,
        Caller::Unknown => {
            return Err(denials::no_token(needs));
        }
        Caller::Person { role, .. } => needs.admits(*role),
        Caller::Joining(_) => matches!(needs, Needs::JoinToken | Needs::Token | Needs::Nothing),
        Caller::Agent(_) => matches!(needs, Needs::Agent | Needs::ViewerOrAgent | Needs::Nothing),
    };
    if is_allowed {
        return Ok(());
    }
    Err(denials::wrong_role(caller, needs))
}

/// In the terms of whoever asked.
fn answer(status: &Status, is_grpc: bool) -> Response {
    refusal::answer(status, is_grpc, |text| {
        let code = match status.code() {
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer realm=\"trainyard\"")];
        (code, challenge, text).into_response()
    })
}
