// Operators on the simulated GPU: libtorch's own CPU kernels, on the same bytes.
#pragma once

#include <string>

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include "streams.h"

namespace simulated {

// The present stream of the present GPU.
StreamId present_stream();
// An operator starts: what its stream waits for is done first; a fault may end it.
void begin(const std::string& name);
// The host waits for the GPU; refused, where libtorch's debug mode for that says so.
void wait(const std::string& cause);
// Runs any operator on the GPU of its first tensor. For the dispatcher.
void run_on_gpu(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack);

}  // namespace simulated
