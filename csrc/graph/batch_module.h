// The functions of graph/batch.h as Python sees them.
#pragma once

#include <pybind11/pybind11.h>

namespace resemb::graph {

void define_batches(pybind11::module_& module);

}  // namespace resemb::graph
