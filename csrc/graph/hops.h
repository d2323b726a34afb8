// The product of two sparse matrices with rows pruned to their heaviest entries.
#pragma once

#include <cstdint>

#include "graph/collector.h"
#include "graph/workers.h"

namespace resemb::graph {

template <class Id>
struct CsrView {
  const int64_t* indptr;
  const Id* neighbors;
  const float* weights;
};

// prune(P W): of every row the top_k heaviest others (ties by id) and its own entry. Sums in double in
// the order of P's row, rounded to float32, then ranked. kept, whole: the row's sums after and before.
template <class Id>
Csr<Id, float> multiply(const CsrView<Id>& p, const CsrView<Id>& w, int64_t num_items, int64_t top_k,
                        Workers& workers, double* kept, double* whole);

}  // namespace resemb::graph
