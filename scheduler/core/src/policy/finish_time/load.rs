//! Jobs counted by length, so that the place of one among ten thousand costs a look at a few hundred numbers.

/// Buckets for each doubling of the runtime, and all of them: from a second to thirty-four years.
const PER_OCTAVE: f64 = 8.0;
const BUCKETS: usize = 240;

/// Jobs counted by their sort key, in buckets that grow by a factor.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Load {
    jobs: Vec<f64>,
    /// Their GPU-time, in milliseconds.
    gpu_time: Vec<f64>,
}

impl Default for Load {
    fn default() -> Self {
        Self { jobs: vec![0.0; BUCKETS], gpu_time: vec![0.0; BUCKETS] }
    }
}

/// What is ahead of a place in a queue, and what is behind it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct QueueAhead {
    /// Number of jobs ahead.
    pub(super) shorter: f64,
    /// GPU-time of the jobs ahead, in milliseconds.
    pub(super) shorter_gpu_time: f64,
    /// Number of jobs behind.
    pub(super) longer: f64,
}

impl Load {
    fn bucket(sort_key: u64) -> usize {
        let octaves = (sort_key.max(1024) as f64).log2() - 10.0;
        let bucket = (octaves * PER_OCTAVE) as usize;
        bucket.min(BUCKETS - 1)
    }

    pub(super) fn add(&mut self, sort_key: u64, gpu_time: f64) {
        let at = Self::bucket(sort_key);
        self.jobs[at] += 1.0;
        self.gpu_time[at] += gpu_time;
    }

    pub(super) fn remove(&mut self, sort_key: u64, gpu_time: f64) {
        let at = Self::bucket(sort_key);
        self.jobs[at] = (self.jobs[at] - 1.0).max(0.0);
        // What rounding leaves behind must not pile up in a bucket that is empty.
        self.gpu_time[at] = if self.jobs[at] == 0.0 { 0.0 } else { (self.gpu_time[at] - gpu_time).max(0.0) };
    }

    /// How many jobs there are, and their GPU-time in milliseconds.
    pub(super) fn total(&self) -> (f64, f64) {
        (self.jobs.iter().sum(), self.gpu_time.iter().sum())
    }

    /// What is ahead of a job with this sort key. The jobs in its own bucket count half ahead and half behind.
    pub(super) fn ahead_of(&self, sort_key: u64) -> QueueAhead {
        let at = Self::bucket(sort_key);
        QueueAhead {
            shorter: self.jobs[..at].iter().sum::<f64>() + self.jobs[at] / 2.0,
            shorter_gpu_time: self.gpu_time[..at].iter().sum::<f64>() + self.gpu_time[at] / 2.0,
            longer: self.jobs[at + 1..].iter().sum::<f64>() + self.jobs[at] / 2.0,
        }
    }
}
