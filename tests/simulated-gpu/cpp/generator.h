// A GPU's random numbers: those of a CPU generator of its own, so that the same seed gives the same ones.
#pragma once

#include <ATen/core/Generator.h>
#include <c10/core/GeneratorImpl.h>

namespace simulated {

struct Generator final : c10::GeneratorImpl {
    explicit Generator(c10::DeviceIndex gpu);
    at::Generator inner;
    void set_current_seed(uint64_t seed) override { inner.set_current_seed(seed); }
    void set_offset(uint64_t) override {}
    uint64_t get_offset() const override { return 0; }
    uint64_t current_seed() const override { return inner.current_seed(); }
    uint64_t seed() override { return inner.seed(); }
    void set_state(const c10::TensorImpl& state) override { inner.unsafeGetGeneratorImpl()->set_state(state); }
    c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return inner.unsafeGetGeneratorImpl()->get_state(); }
    c10::GeneratorImpl* clone_impl() const override { return new Generator(device().index()); }
    static c10::DeviceType device_type() { return c10::kCUDA; }
};

// The generator of a GPU that is used where none is named; -1 is the present GPU.
const at::Generator& default_generator(c10::DeviceIndex gpu);

}  // namespace simulated
