//! Two GPUs and the host: what may be mixed, and what may not.

use tch::{Device, Kind, Tensor};

use super::{GPU, SECOND, alone, random, words};

#[test]
fn tensors_of_two_devices_are_refused_in_libtorchs_words() {
    let _alone = alone();
    let (on_gpu, on_host, on_second) =
        (random(&[4, 4]).to_device(GPU), random(&[4, 4]), random(&[4, 4]).to_device(SECOND));
    for (name, text) in [
        ("add", words(|| &on_gpu + &on_host)),
        ("add of two GPUs", words(|| &on_gpu + &on_second)),
        ("product", words(|| on_gpu.mm(&on_host))),
        ("cat", words(|| Tensor::cat(&[&on_gpu, &on_host], 0))),
        (
            "convolution",
            words(|| {
                let images = random(&[1, 3, 8, 8]).to_device(GPU);
                images.conv2d(&random(&[4, 3, 3, 3]), None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1)
            }),
        ),
    ] {
        assert!(text.contains("Expected all tensors to be on the same device"), "{name}: {text}");
    }
    // A number of the host may take part.
    assert_eq!((&on_gpu * Tensor::from(2.0_f32)).device(), GPU);
}

#[test]
fn each_gpu_computes_on_its_own_memory() {
    let _alone = alone();
    let host = random(&[64, 64]);
    let (first, second) = (host.to_device(GPU), host.to_device(SECOND));
    let there = first.to_device(SECOND);
    assert_eq!((there.device(), (&second + &there).device()), (SECOND, SECOND));
    assert!((second + there).to_device(Device::Cpu).equal(&(&host * 2.0)));
    assert_eq!(Tensor::ones([2], (Kind::Float, SECOND)).device(), SECOND);
}

/// The signal that a child died of, which reads a GPU's memory from the host.
#[test]
fn host_code_that_reads_a_gpus_memory_dies() {
    let _alone = alone();
    if std::env::var_os("READ_GPU_MEMORY").is_some() {
        let tensor = Tensor::ones([4], (Kind::Float, GPU));
        // SAFETY: none; that is what is tested.
        let read = unsafe { tensor.data_ptr().cast::<f32>().read_volatile() };
        println!("read {read}");
        return;
    }
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "devices::host_code_that_reads_a_gpus_memory_dies"]).env("READ_GPU_MEMORY", "1");
    let status = again.output().unwrap().status;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGSEGV), "{status}");
}
