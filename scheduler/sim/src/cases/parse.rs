//! What a case is made of: `cluster.csv` and `jobs.csv`.

use std::collections::BTreeMap;

/// Machines of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Nodes {
    /// The GPUs' model; names of machines begin with it.
    pub gpu_model: String,
    /// Memory of each GPU.
    pub vram_gb: f64,
    pub nodes: u32,
    /// GPUs of each machine.
    pub gpus_per_node: u32,
}

/// One job, the truth about it included, which a scheduler is not told.
#[derive(Debug, Clone, PartialEq)]
pub struct CaseJob {
    /// Its name in the schedule.
    pub id: String,
    pub user: String,
    /// When it is submitted.
    pub submit_s: f64,
    /// GPUs, all of one machine.
    pub gpus: u32,
    /// Least memory of each GPU.
    pub min_vram_gb: f64,
    /// The higher goes first.
    pub priority: i32,
    /// The work after which it ends: the truth.
    pub work_units: f64,
    /// It goes on from a multiple of this.
    pub ckpt_units: f64,
    /// What its user says.
    pub declared_units: f64,
    /// Jobs of one kind are alike in speed.
    pub kind: String,
    /// Work a second of the whole job by model of GPU; models that cannot run it are not in it. The truth.
    pub rates: BTreeMap<String, f64>,
}

/// A cluster and what is to be done on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    pub cluster: Vec<Nodes>,
    /// The jobs, by submission.
    pub jobs: Vec<CaseJob>,
    /// What a job's start costs after its first.
    pub restart_s: f64,
}

/// A file that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A column is missing.
    #[error("{file} has no column `{column}`")]
    Column { file: &'static str, column: String },
    /// A job has no row in a file that must have one for each.
    #[error("{file} has no row for job `{job}`")]
    Job { file: &'static str, job: String },
    /// A field cannot be read.
    #[error("{file}, line {line}: `{column}` is `{value}`; use {expected}")]
    Field {
        file: &'static str,
        /// From 1, the header included.
        line: usize,
        column: String,
        /// What stands there.
        value: String,
        /// What should stand there.
        expected: &'static str,
    },
}

/// A comma-separated file with a header; no field holds a comma.
pub(super) struct Table<'a> {
    file: &'static str,
    header: Vec<&'a str>,
    rows: Vec<(usize, Vec<&'a str>)>,
}

impl<'a> Table<'a> {
    pub(super) fn new(file: &'static str, text: &'a str) -> Self {
        let mut lines = text.lines().map(|line| line.split(',').map(str::trim).collect());
        let header = lines.next().unwrap_or_default();
        let rows = lines.enumerate().filter(|(_, row): &(usize, Vec<&str>)| row.len() > 1);
        Self { file, header, rows: rows.map(|(index, row)| (index + 2, row)).collect() }
    }

    /// Each with its line's number.
    pub(super) fn rows(&self) -> impl Iterator<Item = (usize, &[&'a str])> {
        self.rows.iter().map(|(line, row)| (*line, row.as_slice()))
    }

    fn column(&self, name: &str) -> Result<usize, ParseError> {
        let found = self.header.iter().position(|column| *column == name);
        found.ok_or_else(|| ParseError::Column { file: self.file, column: name.to_owned() })
    }

    pub(super) fn text(&self, row: &[&'a str], name: &str) -> Result<&'a str, ParseError> {
        Ok(row.get(self.column(name)?).copied().unwrap_or_default())
    }

    /// A number; an empty field is 0 where that `may_be_empty`.
    pub(super) fn number(
        &self,
        line: usize,
        row: &[&'a str],
        name: &str,
        may_be_empty: bool,
    ) -> Result<f64, ParseError> {
        let text = self.text(row, name)?;
        let number = if text.is_empty() && may_be_empty { Ok(0.0) } else { text.parse::<f64>() };
        match number {
            Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
            Ok(_) | Err(_) => Err(ParseError::Field {
                file: self.file,
                line,
                column: name.to_owned(),
                value: text.to_owned(),
                expected: "a number that is not negative",
            }),
        }
    }

    fn whole(&self, line: usize, row: &[&'a str], name: &str) -> Result<i32, ParseError> {
        let text = self.text(row, name)?;
        text.parse().map_err(|_| ParseError::Field {
            file: self.file,
            line,
            column: name.to_owned(),
            value: text.to_owned(),
            expected: "a whole number",
        })
    }
}

impl Case {
    /// Reads both files. Jobs come out by their submission.
    ///
    /// # Errors
    /// A column is missing, or a field cannot be read.
    pub fn parse(cluster: &str, jobs: &str, restart_s: f64) -> Result<Self, ParseError> {
        let cluster = parse_cluster(&Table::new("cluster.csv", cluster))?;
        let table = Table::new("jobs.csv", jobs);
        let mut jobs = Vec::new();
        for (line, row) in &table.rows {
            jobs.push(parse_job(&table, *line, row, &cluster)?);
        }
        jobs.sort_by(|a, b| a.submit_s.total_cmp(&b.submit_s));
        Ok(Self { cluster, jobs, restart_s })
    }
}

fn parse_cluster(table: &Table<'_>) -> Result<Vec<Nodes>, ParseError> {
    let mut cluster = Vec::new();
    for (line, row) in &table.rows {
        let count = |name| table.whole(*line, row, name).map(|count| u32::try_from(count).unwrap_or(0));
        cluster.push(Nodes {
            gpu_model: table.text(row, "gpu_model")?.to_owned(),
            vram_gb: table.number(*line, row, "vram_gb", false)?,
            nodes: count("nodes")?,
            gpus_per_node: count("gpus_per_node")?,
        });
    }
    Ok(cluster)
}

fn parse_job(table: &Table<'_>, line: usize, row: &[&str], cluster: &[Nodes]) -> Result<CaseJob, ParseError> {
    let number = |name| table.number(line, row, name, false);
    let mut rates = BTreeMap::new();
    let gpus = u32::try_from(table.whole(line, row, "gpus")?).unwrap_or(1).max(1);
    let min_vram_gb = table.number(line, row, "min_vram_gb", true)?;
    for nodes in cluster {
        let rate = table.number(line, row, &format!("tput_{}", nodes.gpu_model), true)?;
        if rate > 0.0 && nodes.vram_gb >= min_vram_gb && nodes.gpus_per_node >= gpus {
            rates.insert(nodes.gpu_model.clone(), rate);
        }
    }
    Ok(CaseJob {
        id: table.text(row, "job_id")?.to_owned(),
        user: table.text(row, "user")?.to_owned(),
        submit_s: number("submit_s")?,
        gpus,
        min_vram_gb,
        priority: table.whole(line, row, "priority")?,
        work_units: number("work_units")?,
        ckpt_units: number("ckpt_units")?,
        declared_units: number("declared_units")?,
        kind: table.text(row, "job_kind")?.to_owned(),
        rates,
    })
}
