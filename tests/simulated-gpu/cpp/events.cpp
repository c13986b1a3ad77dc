// The CUDA runtime's streams and events.
#include <cuda_runtime_api.h>

#include "counts.h"
#include "hazards.h"
#include "runtime.h"

namespace simulated {

namespace {

struct Event {
    Streams::Mark mark;
};

Event* event_of(cudaEvent_t event) { return reinterpret_cast<Event*>(event); }

// CUDA's handles start above its own names for default streams, 1 and 2.
constexpr int64_t kFirstHandle = 16;

}  // namespace

StreamId stream_id(cudaStream_t stream) {
    auto handle = reinterpret_cast<int64_t>(stream);
    return handle == 0 ? StreamId{current_gpu(), 0} : StreamId{0, handle};
}

}  // namespace simulated

using simulated::counter;
using simulated::event_of;
using simulated::said;
using simulated::stream_id;
using simulated::streams;

extern "C" {

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
    *stream = reinterpret_cast<cudaStream_t>(simulated::kFirstHandle + streams().create(0).handle);
    return said(cudaSuccess);
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    return said(streams().is_reached(streams().mark(stream_id(stream))) ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    counter().wait("cudaStreamSynchronize");
    streams().flush(stream_id(stream));
    return said(cudaSuccess);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    streams().wait(stream_id(stream), event_of(event)->mark);
    return said(cudaSuccess);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
    *status = cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t, cudaStreamCaptureStatus* status, unsigned long long* id, cudaGraph_t*,
                                     const cudaGraphNode_t**, const cudaGraphEdgeData**, size_t*) {
    *status = cudaStreamCaptureStatusNone;
    if (id != nullptr) *id = 0;
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    *event = reinterpret_cast<cudaEvent_t>(new simulated::Event);
    return said(cudaSuccess);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event_of(event);
    return said(cudaSuccess);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    event_of(event)->mark = streams().mark(stream_id(stream));
    simulated::hazards().event_recorded(stream_id(stream));
    return said(cudaSuccess);
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    return said(streams().is_reached(event_of(event)->mark) ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    counter().wait("cudaEventSynchronize");
    streams().reach(event_of(event)->mark);
    return said(cudaSuccess);
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
    *milliseconds = 0;
    return said(cudaSuccess);
}

cudaError_t cudaDeviceSynchronize() {
    counter().wait("cudaDeviceSynchronize");
    streams().flush_all();
    return said(cudaSuccess);
}

}  // extern "C"
