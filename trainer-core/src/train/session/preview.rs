//! What the model sees while it is trained: the first validation images, drawn again from time to time.

use super::Session;
use crate::libtorch;
use crate::train::error::TrainError;
use crate::train::output::artifacts::Sample;

impl Session<'_> {
    /// Draws what the average sees now, if that is due. After the last epoch the best weights are drawn instead.
    pub(in crate::train) fn preview(&mut self) {
        let began = self.seconds();
        if self.progress.epoch >= self.epochs() || !self.drawing.is_preview_due(began) {
            return;
        }
        let (setup, model) = (self.setup, self.state.ema.model());
        let seen = libtorch::catch_on(setup.options.device, || Sample::of(setup, model).next().transpose());
        let begun = seen
            .map_err(TrainError::from)
            .flatten()
            .and_then(|sample| sample.map_or(Ok(()), |sample| self.drawing.begin_preview(setup, sample)));
        self.report_undrawn(begun);
        self.drawing.previewed(began, self.seconds());
    }
}
