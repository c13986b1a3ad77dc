//! The layers of a plan as blocks with weights, and the way of an image through them to the head.

use tch::Tensor;

use super::blocks::{Builder, C2f, Conv, Sppf};
use super::plan::{Layer, LayerKind, Plan};
use crate::libtorch::autocast::as_they_are;

/// A layer, with its weights if it has some.
#[derive(Debug)]
enum Block {
    Conv(Conv),
    C2f(C2f),
    Sppf(Sppf),
    Upsample,
    Concat,
}

impl Block {
    /// Adds the layer's weights, if it has some, to `builder`.
    fn new(builder: &mut Builder, layer: &Layer) -> Self {
        let path = builder.enter(layer.index);
        let (input, output) = (layer.input, layer.output);
        match layer.kind {
            LayerKind::Conv => Self::Conv(Conv::new(builder, &path, [input, output, 3], 2)),
            LayerKind::C2f { hidden, repeats, shortcut } => {
                Self::C2f(C2f::new(builder, &path, [input, output, hidden], repeats, shortcut))
            }
            LayerKind::Sppf { hidden } => Self::Sppf(Sppf::new(builder, &path, [input, output, hidden])),
            LayerKind::Upsample => Self::Upsample,
            LayerKind::Concat => Self::Concat,
        }
    }

    /// `maps`: as many as the layer takes; one for all but [`Block::Concat`].
    fn forward(&self, maps: &[&Tensor], train: bool) -> Tensor {
        match self {
            Self::Conv(block) => block.forward(maps[0], train),
            Self::C2f(block) => block.forward(maps[0], train),
            Self::Sppf(block) => block.forward(maps[0], train),
            Self::Upsample => as_they_are(maps[0].device(), || {
                let size = maps[0].size();
                maps[0].upsample_nearest2d([2 * size[2], 2 * size[3]], None, None)
            }),
            Self::Concat => as_they_are(maps[0].device(), || Tensor::cat(maps, 1)),
        }
    }
}

/// All layers but the head.
#[derive(Debug)]
pub struct Layers {
    blocks: Vec<Block>,
    /// By layer: the layers whose outputs it takes.
    from: Vec<Vec<usize>>,
    /// By layer: the outputs that nobody needs after it.
    last_uses: Vec<Vec<usize>>,
    head_from: [usize; 3],
}

impl Layers {
    /// Adds the weights to `builder`, in the order of the plan.
    pub fn new(builder: &mut Builder, plan: &Plan) -> Self {
        Self {
            blocks: plan.layers.iter().map(|layer| Block::new(builder, layer)).collect(),
            from: plan.layers.iter().map(|layer| layer.from.clone()).collect(),
            last_uses: last_uses(plan),
            head_from: plan.head.from,
        }
    }

    /// `image`: `[B, 3, H, W]`, RGB in 0 to 1, H and W multiples of 32. Returns what enters the head:
    /// `[B, channels, H, W]` at strides 8, 16 and 32.
    ///
    /// A map is dropped as soon as no layer needs it, so that without gradients its memory is free again.
    pub fn forward(&self, image: &Tensor, train: bool) -> [Tensor; 3] {
        let mut maps: Vec<Option<Tensor>> = Vec::with_capacity(self.blocks.len());
        for (at, block) in self.blocks.iter().enumerate() {
            let inputs: Vec<&Tensor> = match &self.from[at][..] {
                [] => vec![image],
                from => from.iter().map(|&from| maps[from].as_ref().expect(KEPT)).collect(),
            };
            let output = block.forward(&inputs, train);
            for &unneeded in &self.last_uses[at] {
                maps[unneeded] = None;
            }
            maps.push(Some(output));
        }
        self.head_from.map(|from| maps[from].take().expect(KEPT))
    }
}

const KEPT: &str = "a map is kept until its last use";

/// By layer: which maps it is the last one to take. Those that enter the head are never among them.
fn last_uses(plan: &Plan) -> Vec<Vec<usize>> {
    let last_user = |map: usize| plan.layers.iter().rposition(|layer| layer.from.contains(&map));
    let mut last_uses = vec![Vec::new(); plan.layers.len()];
    for map in (0..plan.layers.len()).filter(|map| !plan.head.from.contains(map)) {
        if let Some(user) = last_user(map) {
            last_uses[user].push(map);
        }
    }
    last_uses
}

#[cfg(test)]
mod tests {
    use trainyard_types::ModelScale;

    use super::*;

    #[test]
    fn maps_are_kept_until_their_last_use_and_those_of_the_head_to_the_end() {
        let dropped = last_uses(&Plan::new(ModelScale::N, 2));
        assert_eq!(dropped[..5], [vec![], vec![0], vec![1], vec![2], vec![3]]);
        // Map 4 is wanted again for layer 14, map 9 for layer 20.
        assert_eq!((&dropped[5], &dropped[14], &dropped[20]), (&vec![], &vec![4, 13], &vec![9, 19]));
        let all: Vec<usize> = dropped.into_iter().flatten().collect();
        assert_eq!(all.len(), 22 - 3);
        assert!([15, 18, 21].iter().all(|map| !all.contains(map)));
    }
}
