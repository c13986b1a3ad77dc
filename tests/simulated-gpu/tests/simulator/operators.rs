//! Operators, against the CPU's.

use tch::{Device, Kind, Tensor};

use super::{GPU, alone, random};

/// Whether both have the same layout and the same bits.
fn is_same(a: &Tensor, b: &Tensor) -> bool {
    let bits = |of: &Tensor| of.contiguous().view(-1).view_dtype(Kind::Uint8);
    a.size() == b.size() && a.stride() == b.stride() && a.kind() == b.kind() && bits(a).equal(&bits(b))
}

/// Does the same on both devices.
fn compare(name: &str, inputs: &[Tensor], work: impl Fn(&[Tensor]) -> Vec<Tensor>) {
    let on = |device| {
        let inputs: Vec<Tensor> = inputs.iter().map(|input| input.to_device(device).copy()).collect();
        work(&inputs)
    };
    let (expected, found) = (on(Device::Cpu), on(GPU));
    assert_eq!(found.len(), expected.len());
    for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(found.device(), GPU, "{name}: result {at}");
        assert_eq!(found.stride(), expected.stride(), "{name}: result {at}");
        assert!(is_same(&found.to_device(Device::Cpu), expected), "{name}: result {at} differs");
    }
}

#[test]
fn arithmetic_and_selection() {
    let _alone = alone();
    let (a, b) = (random(&[37, 53]), random(&[37, 53]));
    compare("arithmetic", &[a.shallow_clone(), b.shallow_clone()], |t| {
        let x = &t[0];
        vec![
            x + &t[1],
            x * &t[1],
            x / &t[1],
            x - 2.0,
            x.square(),
            x.clamp(-1.0, 1.0),
            x.maximum(&t[1]),
            x.where_self(&x.gt(0.0), &t[1]),
        ]
    });
    compare("in place", &[a.shallow_clone(), b.shallow_clone()], |t| {
        let mut x = t[0].copy();
        x += &t[1];
        let _ = x.relu_();
        let mut view = x.narrow(1, 3, 20).transpose(0, 1);
        view *= 3.0;
        vec![view.contiguous(), x]
    });
    compare("selection", &[a, b], |t| {
        let (top, places) = t[0].topk(7, 1, true, true);
        let (sorted, order) = t[0].sort(0, true);
        let mask = t[0].gt(0.3);
        vec![
            top,
            places,
            sorted,
            order,
            t[0].cumsum(1, Kind::Float),
            t[0].masked_select(&mask),
            mask.nonzero(),
            t[0].masked_fill(&mask, 9.0),
        ]
    });
}

#[test]
fn layers_and_their_gradients() {
    let _alone = alone();
    let (images, kernel, depthwise) =
        (random(&[2, 8, 20, 20]), random(&[16, 8, 3, 3]), random(&[8, 1, 3, 3]));
    compare("layers", &[images, kernel, depthwise], |t| {
        let none = None::<&Tensor>;
        let x = t[0].detach().set_requires_grad(true);
        let y = x.conv2d(&t[1], none, [1, 1], [1, 1], [1, 1], 1).silu();
        let z = x.conv2d(&t[2], none, [1, 1], [1, 1], [1, 1], 8).max_pool2d(5, 1, 2, 1, false);
        let up = y.upsample_nearest2d([40, 40], None, None);
        (up.sum(Kind::Float) + z.square().sum(Kind::Float)).backward();
        vec![y.detach(), z.detach(), up.detach(), x.grad()]
    });
}

#[test]
fn sixteen_bits_and_casts() {
    let _alone = alone();
    let (images, kernel) = (random(&[1, 8, 12, 12]), random(&[4, 8, 3, 3]));
    compare("16 bits", &[images, kernel], |t| {
        let on = |kind| {
            let (x, k) = (t[0].to_kind(kind), t[1].to_kind(kind));
            x.conv2d(&k, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1)
        };
        vec![
            on(Kind::Half),
            on(Kind::BFloat16),
            t[0].to_kind(Kind::Int64),
            t[0].to_kind(Kind::Half).to_kind(Kind::Float),
        ]
    });
}

#[test]
fn random_numbers_of_the_same_seed() {
    let _alone = alone();
    compare("random", &[random(&[9])], |t| {
        tch::manual_seed(5);
        let options = (Kind::Float, t[0].device());
        vec![
            Tensor::rand([9], options),
            Tensor::randn([9], options),
            Tensor::randperm(20, (Kind::Int64, t[0].device())),
        ]
    });
}

#[test]
fn what_has_no_kernel_on_a_real_gpu_has_none_here() {
    let _alone = alone();
    let images = random(&[1, 3, 8, 8]).to_device(GPU);
    let text = super::words(|| images.to_mkldnn());
    assert!(text.contains("Could not run 'aten::to_mkldnn'"), "{text}");
}
