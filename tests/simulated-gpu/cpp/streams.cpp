#include "streams.h"

namespace simulated {

void Streams::put(StreamId stream, std::function<void()> work) {
    std::lock_guard hold(lock_);
    auto& queue = queues_[stream];
    queue.work.push_back(std::move(work));
    ++queue.put;
}

void Streams::run(StreamId stream, uint64_t upto) {
    auto& queue = queues_[stream];
    while (queue.done < upto && !queue.work.empty()) {
        auto work = std::move(queue.work.front());
        queue.work.pop_front();
        ++queue.done;
        work();
    }
}

Streams::Mark Streams::mark(StreamId stream) {
    std::lock_guard hold(lock_);
    return {stream, queues_[stream].put};
}

bool Streams::is_reached(Mark mark) {
    std::lock_guard hold(lock_);
    return queues_[mark.stream].done >= mark.at;
}

void Streams::wait(StreamId stream, Mark mark) {
    if (stream == mark.stream || is_reached(mark)) return;
    put(stream, [this, mark] { reach(mark); });
}

void Streams::reach(Mark mark) {
    std::lock_guard hold(lock_);
    run(mark.stream, mark.at);
}

void Streams::flush_all() {
    std::lock_guard hold(lock_);
    for (auto& [stream, queue] : queues_) run(stream, queue.put);
}

Streams& streams() {
    static auto* all = new Streams;
    return *all;
}

}  // namespace simulated
