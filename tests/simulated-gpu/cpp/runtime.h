// What the parts of the simulated CUDA runtime share.
#pragma once

#include <cuda_runtime_api.h>

#include "streams.h"

namespace simulated {

// The calling thread's present GPU.
int current_gpu();
// Remembers an error as the thread's last one. A sticky one takes the place of every other.
cudaError_t said(cudaError_t error);
// A stream's name: its handle, or the default stream of the present GPU.
StreamId stream_id(cudaStream_t stream);

}  // namespace simulated
