// What libtorch's own table says of its operators, read from the file that comes with it.
#pragma once

#include <map>
#include <string>

namespace simulated {

struct OperatorFacts {
    bool cuda = false;       // has a kernel of its own on a GPU
    bool composite = false;  // has a general form, which the dispatcher would take before a fallback
    bool checked = true;     // the real wrapper looks at devices
    std::string delegate;    // its kernel is that operator's
};

const std::map<std::string, OperatorFacts>& operator_table();
// Facts of `aten::add.Tensor`; null for one that the table lacks.
const OperatorFacts* facts_of(const std::string& name);
// Whether the host knows something that the GPU computed when the operator returns.
bool waits(const std::string& name);

}  // namespace simulated
