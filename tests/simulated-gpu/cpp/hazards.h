// Memory that a stream uses without the allocator's knowledge. The allocator gives what was freed to the next tensor
// of the stream that it was allocated on; one that another stream still reads would be overwritten, unless
// `recordStream` has told of it.
#pragma once

#include <map>
#include <mutex>
#include <set>

#include <c10/core/CachingDeviceAllocator.h>

#include "streams.h"

namespace simulated {

class Hazards {
public:
    // A kernel or a copy on `stream` takes what begins there.
    void used(const void* device, StreamId stream);
    // What the allocator tells of itself.
    void trace(const c10::CachingDeviceAllocator::TraceEntry& entry);
    // While it frees memory, the allocator records an event on each stream that it was told of.
    void event_recorded(StreamId stream);

private:
    std::mutex lock_;
    std::map<size_t, std::set<StreamId>> used_;     // address -> streams
    std::map<size_t, std::set<StreamId>> untold_;   // of memory that is being freed
};

Hazards& hazards();

}  // namespace simulated
