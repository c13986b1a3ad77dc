//! Job specs, jobs and their events.
