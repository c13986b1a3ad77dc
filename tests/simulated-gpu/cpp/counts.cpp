#include "counts.h"

#include <fstream>
#include <vector>

#include "settings.h"

namespace simulated {

namespace {

// Names are operators', causes' and phases': nothing in them needs an escape.
std::string json(const std::map<std::string, int64_t>& numbers) {
    std::string text;
    for (const auto& [name, number] : numbers) {
        text += (text.empty() ? "\"" : ",\"") + name + "\":" + std::to_string(number);
    }
    return "{" + text + "}";
}

std::string json(const Counts& counts) {
    std::string numbers = json({
        {"operators", counts.operators},
        {"waits", counts.waits},
        {"staged", counts.staged},
        {"hazards", counts.hazards},
        {"allocations", counts.allocations},
        {"allocated_bytes", counts.allocated_bytes},
        {"uploaded_bytes", counts.uploaded_bytes},
        {"downloaded_bytes", counts.downloaded_bytes},
        {"moved_bytes", counts.moved_bytes},
        {"searches", counts.searches},
        {"tf32", counts.tf32},
    });
    numbers.pop_back();
    return numbers + ",\"waits_by_cause\":" + json(counts.waits_by_cause) +
           ",\"operators_by_name\":" + json(counts.operators_by_name) + "}";
}

// Of a process that is not the test's own.
struct AtExit {
    ~AtExit() {
        if (!settings().report.empty()) std::ofstream(settings().report) << counter().report() << "\n";
    }
} at_exit;

}  // namespace

void Counter::enter(const std::string& phase) {
    std::lock_guard hold(lock_);
    phase_ = phase;
}

void Counter::reset() {
    std::lock_guard hold(lock_);
    by_phase_.clear();
}

std::string Counter::report() {
    std::lock_guard hold(lock_);
    std::string text;
    for (const auto& [phase, counts] : by_phase_) {
        text += (text.empty() ? "\"" : ",\"") + phase + "\":" + json(counts);
    }
    return "{" + text + "}";
}

Counter& counter() {
    static auto* one = new Counter;
    return *one;
}

}  // namespace simulated
