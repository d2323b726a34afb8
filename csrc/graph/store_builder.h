// The graph, or the counted pairs, of the events of a store.
#pragma once

#include <memory>

#include "graph/builder.h"
#include "graph/sorting.h"
#include "graph/store.h"

namespace resemb::graph {

// Rows: GraphRows or CountRows. Uses up the events. occurrences: made, the events of each item.
template <class Rows>
Csr<Neighbor, typename Rows::Value> build(EventStore& store, const BuildOptions& options, Workers& workers,
                                          Tails* tails, std::unique_ptr<Word[]>& occurrences);

}  // namespace resemb::graph
