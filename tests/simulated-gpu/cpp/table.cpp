#include "table.h"

#include <cstdlib>
#include <fstream>
#include <set>

#include <c10/core/Device.h>
#include <c10/util/Exception.h>
#include <dlfcn.h>

#include <ATen/core/op_registration/adaption.h>

namespace simulated {

namespace {

// Beside libtorch, in the Python wheel.
std::string path() {
    Dl_info where{};
    TORCH_CHECK(dladdr(reinterpret_cast<void*>(&c10::impl::common_device_check_failure), &where) != 0,
                "the simulated GPU does not find libtorch");
    char* real = realpath(where.dli_fname, nullptr);  // …/torch/lib/libtorch_cpu.so
    std::string library = real;
    std::free(real);
    return library.substr(0, library.rfind("/torch/lib/")) + "/torchgen/packaged/ATen/native/native_functions.yaml";
}

bool starts(const std::string& line, const std::string& with) { return line.compare(0, with.size(), with) == 0; }

// A line such as `    CPU, CUDA: add_out`.
void read_keys(const std::string& line, OperatorFacts& facts) {
    if (line[4] == '#') return;
    std::string keys = ", " + line.substr(4, line.find(':') - 4) + ",";
    if (keys.find(" CUDA,") != std::string::npos) facts.cuda = true;
    if (keys.find(" Composite") != std::string::npos) facts.composite = true;
}

std::map<std::string, OperatorFacts> read() {
    std::map<std::string, OperatorFacts> found;
    std::ifstream file(path());
    TORCH_CHECK(file.good(), "the simulated GPU found no ", path());
    OperatorFacts* facts = nullptr;
    bool dispatch = false;
    const std::string func = "- func: ", delegate = "  structured_delegate: ";
    for (std::string line; std::getline(file, line);) {
        if (starts(line, func)) {
            facts = &found["aten::" + line.substr(func.size(), line.find('(') - func.size())];
            dispatch = false;
        } else if (facts == nullptr) {
            continue;
        } else if (starts(line, "    ") && dispatch) {
            read_keys(line, *facts);
        } else if (starts(line, "  ")) {
            dispatch = starts(line, "  dispatch:");
            if (starts(line, "  device_check: NoCheck")) facts->checked = false;
            if (starts(line, "  ufunc_inner_loop:")) facts->cuda = true;
            if (starts(line, delegate)) facts->delegate = "aten::" + line.substr(delegate.size());
        }
    }
    for (auto& [name, one] : found) {
        auto to = found.find(one.delegate);
        if (to != found.end()) one.cuda = to->second.cuda;
    }
    return found;
}

}  // namespace

const std::map<std::string, OperatorFacts>& operator_table() {
    static const auto* all = new std::map<std::string, OperatorFacts>(read());
    return *all;
}

const OperatorFacts* facts_of(const std::string& name) {
    auto found = operator_table().find(name);
    return found == operator_table().end() ? nullptr : &found->second;
}

bool waits(const std::string& name) {
    static const std::set<std::string> all = {
        "aten::_local_scalar_dense", "aten::nonzero", "aten::nonzero.out", "aten::masked_select",
        "aten::masked_select.out", "aten::equal", "aten::_unique", "aten::_unique2", "aten::unique_dim",
        "aten::unique_consecutive", "aten::bincount", "aten::repeat_interleave.Tensor", "aten::multinomial",
        "aten::histc",
    };
    return all.count(name) != 0;
}

}  // namespace simulated
