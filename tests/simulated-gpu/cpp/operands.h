// What an operator was given, before it runs: its GPU, and what a real GPU's wrapper would check and wait for.
#pragma once

#include <optional>
#include <string>

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

namespace simulated {

class Operands {
public:
    Operands(const c10::OperatorHandle& op, const torch::jit::Stack& stack);

    // `aten::add.Tensor`.
    const std::string& name() const { return name_; }
    // The GPU that it runs on: its first GPU tensor's, else the one that it names.
    std::optional<c10::Device> device() const;
    // Whether its indices may be the host's.
    bool takes_host_indices() const;
    // Throws in libtorch's words, where tensors are of two devices.
    void check_devices() const;
    // Counts the times that a real GPU's host would wait for it.
    void count_waits() const;
    // Counts what cuDNN and cuBLAS would choose by the present switches.
    void count_choices() const;

private:
    const c10::IValue& argument(size_t at) const { return stack_[first_ + at]; }
    // Each defined tensor, with its argument's name.
    template <typename Look>
    void each_tensor(Look look) const;
    int64_t waits_of_index_put() const;
    std::string shapes() const;

    const c10::OperatorHandle& op_;
    const torch::jit::Stack& stack_;
    size_t first_;
    std::string name_;
};

}  // namespace simulated
