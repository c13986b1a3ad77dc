//! Which role may call which method: the one table.

use crate::access_records::AccessRole;

/// The role or certificate that a caller must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: probes and those who are about to log in have no token.
    Nothing,
    /// Any token.
    Token,
    /// Any person.
    Viewer,
    /// A person who submits. What belongs to others is refused by the service: jobs, tokens, and agents that name
    /// their owners.
    User,
    /// An admin.
    Admin,
    /// A token that agents join with, or an admin's.
    JoinToken,
    /// An agent, for itself.
    Agent,
    /// Any person, or an agent for an attempt of its own.
    ViewerOrAgent,
}

/// A method of the protocol, and who may call it.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// `SERVICE/METHOD` without the package.
    pub name: &'static str,
    pub needs: Needs,
    /// Whether the audit tells of each call, done or refused. Of others it tells the refusals.
    pub is_audited: bool,
}

const fn reads(name: &'static str) -> Method {
    Method { name, needs: Needs::Viewer, is_audited: false }
}

const fn changes(name: &'static str, needs: Needs) -> Method {
    Method { name, needs, is_audited: true }
}

/// Every method of `trainyard.v1`.
pub const METHODS: &[Method] = &[
    Method { name: "AccessService/WhoAmI", needs: Needs::Token, is_audited: false },
    changes("AccessService/CreateToken", Needs::User),
    reads("AccessService/ListTokens"),
    changes("AccessService/RevokeToken", Needs::Viewer),
    changes("AccessService/EnrolAgent", Needs::JoinToken),
    changes("AccessService/RenewCertificate", Needs::Agent),
    changes("AccessService/ForgetAgent", Needs::Admin),
    Method { name: "AccessService/ListAuditEvents", needs: Needs::Admin, is_audited: false },
    Method { name: "AgentService/Connect", needs: Needs::Agent, is_audited: false },
    reads("ArtifactService/ListArtifacts"),
    Method { name: "ArtifactService/DownloadArtifact", needs: Needs::ViewerOrAgent, is_audited: false },
    Method { name: "ArtifactService/UploadArtifact", needs: Needs::Agent, is_audited: false },
    reads("ClusterService/ListAgents"),
    reads("ClusterService/GetAgent"),
    changes("ClusterService/DrainAgent", Needs::User),
    changes("ClusterService/ResumeAgent", Needs::User),
    changes("ClusterService/ReserveGpus", Needs::User),
    changes("ClusterService/ReleaseGpus", Needs::User),
    changes("ClusterService/ClearGpu", Needs::User),
    reads("ClusterService/ListRates"),
    reads("ClusterService/GetTelemetry"),
    reads("ClusterService/WatchCluster"),
    changes("DatasetService/PushDataset", Needs::User),
    reads("DatasetService/ListDatasets"),
    Method { name: "DatasetService/GetDataset", needs: Needs::ViewerOrAgent, is_audited: false },
    reads("DatasetService/GetDatasetSummary"),
    changes("DatasetService/DeleteDataset", Needs::User),
    Method { name: "DatasetService/ListDatasetFiles", needs: Needs::ViewerOrAgent, is_audited: false },
    Method { name: "DatasetService/ReadDataset", needs: Needs::ViewerOrAgent, is_audited: false },
    changes("JobService/SubmitJob", Needs::User),
    changes("JobService/SubmitJobs", Needs::User),
    changes("JobService/SubmitSweep", Needs::User),
    reads("JobService/GetSweep"),
    changes("JobService/CancelSweep", Needs::User),
    reads("JobService/GetJob"),
    reads("JobService/ListJobs"),
    changes("JobService/CancelJob", Needs::User),
    changes("JobService/RetryJob", Needs::User),
    reads("JobService/WatchJob"),
    reads("JobService/DiagnoseJob"),
    changes("JobService/SetJobPriority", Needs::User),
    reads("JobService/ListUserShares"),
    changes("NotificationService/CreateWebhook", Needs::User),
    reads("NotificationService/ListWebhooks"),
    changes("NotificationService/DeleteWebhook", Needs::User),
    changes("NotificationService/TestWebhook", Needs::User),
];

/// Every HTTP page.
pub const PAGES: &[(&str, Needs)] = &[
    ("/", Needs::Nothing),
    ("/healthz", Needs::Nothing),
    ("/readyz", Needs::Nothing),
    ("/ca.pem", Needs::Nothing),
    ("/metrics", Needs::Viewer),
];

/// What browsers load before anybody has logged in: the page's files, and addresses that show the page.
const OPEN_FOLDERS: [&str; 8] =
    ["/assets", "/queue", "/jobs", "/compare", "/data", "/weights", "/new", "/login"];

/// Services of others that need no token.
const OPEN_SERVICES: [&str; 2] = ["/grpc.health.v1.", "/grpc.reflection."];

/// Whether a path is an HTTP page's.
pub fn is_page(path: &str) -> bool {
    PAGES.iter().any(|(page, _)| *page == path) || is_open_page(path)
}

fn is_open_page(path: &str) -> bool {
    let is_in =
        |folder: &str| path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    OPEN_FOLDERS.iter().any(|folder| is_in(folder))
}

/// What a request's path needs. What is in no table does not exist, or is an admin's.
pub fn of_path(path: &str) -> Method {
    if let Some(name) = path.strip_prefix("/trainyard.v1.") {
        let known = METHODS.iter().find(|method| method.name == name);
        return known.copied().unwrap_or(Method { name: "", needs: Needs::Admin, is_audited: false });
    }
    let page = PAGES.iter().find(|(page, _)| *page == path).map(|(_, needs)| *needs);
    let is_open = is_open_page(path) || OPEN_SERVICES.iter().any(|service| path.starts_with(service));
    let needs = page.unwrap_or(if is_open { Needs::Nothing } else { Needs::Viewer });
    Method { name: "", needs, is_audited: false }
}

impl Needs {
    /// Whether a person of this role may call it.
    pub fn admits(self, role: AccessRole) -> bool {
        match self {
            Self::Nothing => true,
            Self::Token | Self::Viewer | Self::ViewerOrAgent => role <= AccessRole::Admin,
            Self::User => matches!(role, AccessRole::User | AccessRole::Admin),
            Self::Admin | Self::JoinToken => role == AccessRole::Admin,
            Self::Agent => false,
        }
    }

    /// What a caller would have to be, for a person.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Token => "a token",
            Self::Viewer => "viewer",
            Self::User => "user",
            Self::Admin => "admin",
            Self::JoinToken => "a token that agents join with",
            Self::Agent => "an agent's certificate",
            Self::ViewerOrAgent => "viewer, or an agent's certificate",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_method_of_the_protocol_is_in_the_table_and_nothing_else() {
        let files = FileDescriptorSet::decode(trainyard_proto::pb::DESCRIPTORS).unwrap().file;
        let ours = files.iter().filter(|file| file.package() == "trainyard.v1");
        let methods = ours.flat_map(|file| &file.service).flat_map(|service| {
            service.method.iter().map(|method| format!("{}/{}", service.name(), method.name()))
        });
        let known: BTreeSet<String> = METHODS.iter().map(|method| method.name.to_owned()).collect();
        assert_eq!(methods.collect::<BTreeSet<_>>(), known);
        assert_eq!(known.len(), METHODS.len());
    }

    #[test]
    fn whoever_may_do_more_may_do_what_needs_less() {
        let roles = [AccessRole::Viewer, AccessRole::User, AccessRole::Admin];
        let table = [
            (Needs::Nothing, [true, true, true]),
            (Needs::Token, [true, true, true]),
            (Needs::Viewer, [true, true, true]),
            (Needs::User, [false, true, true]),
            (Needs::Admin, [false, false, true]),
            (Needs::JoinToken, [false, false, true]),
            (Needs::Agent, [false, false, false]),
            (Needs::ViewerOrAgent, [true, true, true]),
        ];
        for (needs, expected) in table {
            assert_eq!(roles.map(|role| needs.admits(role)), expected, "{needs:?}");
        }
    }

    #[test]
    fn what_is_in_no_table_is_not_open() {
        assert_eq!(of_path("/trainyard.v1.JobService/Unknown").needs, Needs::Admin);
        assert_eq!(of_path("/api/jobs").needs, Needs::Viewer);
        assert_eq!(of_path("/jobs/0199").needs, Needs::Nothing);
        assert_eq!(of_path("/jobsite").needs, Needs::Viewer);
        assert_eq!(of_path("/grpc.health.v1.Health/Check").needs, Needs::Nothing);
        assert_eq!(of_path("/healthz").needs, Needs::Nothing);
    }
}
