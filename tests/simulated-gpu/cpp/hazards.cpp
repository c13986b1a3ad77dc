#include "hazards.h"

#include "counts.h"
#include "runtime.h"

namespace simulated {

namespace {
// What this thread frees at the moment.
thread_local size_t freeing = 0;
}  // namespace

void Hazards::used(const void* device, StreamId stream) {
    std::lock_guard hold(lock_);
    used_[reinterpret_cast<size_t>(device)].insert(stream);
}

void Hazards::trace(const c10::CachingDeviceAllocator::TraceEntry& entry) {
    using Action = c10::CachingDeviceAllocator::TraceEntry;
    std::lock_guard hold(lock_);
    if (entry.action_ == Action::ALLOC) {
        used_.erase(entry.addr_);
    } else if (entry.action_ == Action::FREE_REQUESTED) {
        auto streams = used_[entry.addr_];
        streams.erase(stream_id(static_cast<cudaStream_t>(entry.stream_)));
        untold_[entry.addr_] = std::move(streams);
        freeing = entry.addr_;
    } else if (entry.action_ == Action::FREE_COMPLETED) {
        auto untold = untold_.find(entry.addr_);
        if (untold == untold_.end()) return;
        counter().count([&](Counts& counts) { counts.hazards += static_cast<int64_t>(untold->second.size()); });
        untold_.erase(untold);
        used_.erase(entry.addr_);
    }
}

void Hazards::event_recorded(StreamId stream) {
    std::lock_guard hold(lock_);
    auto untold = untold_.find(freeing);
    if (untold != untold_.end()) untold->second.erase(stream);
}

Hazards& hazards() {
    static auto* all = new Hazards;
    return *all;
}

}  // namespace simulated
