// Streams and events. Copies that the host does not wait for are done as late as they may be: when something waits
// for them. Kernels run at once.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>

namespace simulated {

// A stream of CUDA: a handle, or a GPU's default stream.
struct StreamId {
    int gpu = 0;
    int64_t handle = 0;
    auto operator<=>(const StreamId&) const = default;
};

class Streams {
public:
    // A place in a stream: everything put before it.
    struct Mark {
        StreamId stream;
        uint64_t at = 0;
    };

    StreamId create(int gpu) { return {gpu, ++next_}; }
    void put(StreamId stream, std::function<void()> work);
    Mark mark(StreamId stream);
    bool is_reached(Mark mark);
    // `stream` goes on after `mark`.
    void wait(StreamId stream, Mark mark);
    // Runs what lies before the mark.
    void reach(Mark mark);
    void flush(StreamId stream) { reach(mark(stream)); }
    void flush_all();

private:
    struct Queue {
        std::deque<std::function<void()>> work;
        uint64_t put = 0, done = 0;
    };
    void run(StreamId stream, uint64_t upto);
    // Recursive, since a stream that waits for another one runs it.
    std::recursive_mutex lock_;
    std::map<StreamId, Queue> queues_;
    std::atomic<int64_t> next_{0};
};

Streams& streams();

}  // namespace simulated
