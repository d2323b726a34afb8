// The operators on rows of tables that optimizers and decay name.
#include <limits>
#include <string>
#include <tuple>

#include "ops/operators.h"
#include "ops/table_rows.h"

namespace resemb {

Tensor row_indices(const Call& call, const Tensor& rows, int64_t expected) {
  check_shape(rows.dim() == 1 && (expected < 0 || rows.size(0) == expected), "rows", rows,
              "[N], one for each row of values");
  check_type(rows, ScalarType::Long, "rows");
  return call.dense(rows, "rows");
}

TableRows rows_of(const Tensor& rows, int64_t num_items) {
  return {static_cast<const int64_t*>(rows.const_data_ptr()), rows.size(0), num_items};
}

namespace {

// What a plan can hold.
void check_count(int64_t ids, int64_t num_items, const char* name) {
  if (ids >= std::numeric_limits<int32_t>::max() / 4) {
    fail_value(std::string(name) + ": " + std::to_string(ids) + "; at most 2^29 at once");
  }
  if (num_items >= std::numeric_limits<int32_t>::max()) {
    fail_value("num_items: " + std::to_string(num_items) + "; at most 2^31 - 2 are supported");
  }
}

bool rows_ascend(const Tensor& rows_in, int64_t num_items) {
  const Call call(rows_in, "rows");
  const Tensor rows = row_indices(call, rows_in);
  return call.backend().ascend(rows_of(rows, num_items));
}

std::tuple<Tensor, Tensor> coalesce_rows(const Tensor& rows_in, const Tensor& values_in, int64_t num_items) {
  const Call call(rows_in, "rows");
  check_shape(values_in.dim() == 2, "values", values_in, "[N, D]");
  const Tensor rows = row_indices(call, rows_in, values_in.size(0));
  const Tensor values = call.dense(values_in, "values");
  check_count(rows.size(0), num_items, "rows");
  const int64_t dim = values.size(1);
  SparseTensor out(call, {dim}, values.scalar_type());
  call.backend().coalesce(rows_of(rows, num_items), table_type(values.scalar_type(), "values"), dim,
                          values.const_data_ptr(), out);
  return {out.indices(), out.values()};
}

Tensor empty_rows(const Tensor& like, int64_t rows, int64_t dim, ScalarType dtype) {
  if (rows < 0 || dim < 0) fail_value("rows, dim: expected sizes of at least 0");
  table_type(dtype, "dtype");
  return Call(like, "like").output({rows, dim}, dtype);
}

Tensor distinct_items(const Tensor& items, int64_t num_items) {
  const Call call(items, "ids");
  const Tensor ids = call.dense(items, "ids");
  check_count(ids.numel(), num_items, "ids");
  SparseTensor out(call);
  call.backend().distinct_items({ids.const_data_ptr(), is_int64(ids, "ids"), ids.numel()}, num_items, out);
  return out.indices();
}

Tensor distinct_neighbors(const Tensor& rows_in, const Tensor& indptr_in, const Tensor& neighbors_in) {
  const Call call(rows_in, "rows");
  const Tensor rows = row_indices(call, rows_in);
  const Tensor indptr = call.dense_or_pinned(indptr_in, "indptr");
  const Tensor neighbors = call.dense_or_pinned(neighbors_in, "neighbors");
  check_shape(indptr.dim() == 1 && indptr.size(0) >= 1, "indptr", indptr, "[H + 1]");
  check_type(indptr, ScalarType::Long, "indptr");
  const int64_t num_items = indptr.size(0) - 1;
  check_count(rows.size(0), num_items, "rows");
  const GraphView graph{static_cast<const int64_t*>(indptr.const_data_ptr()), neighbors.const_data_ptr(),
                        nullptr, is_int64(neighbors, "neighbors"), DType::f32};
  SparseTensor out(call);
  call.backend().distinct_neighbors(rows_of(rows, num_items), graph, neighbors.numel(), out);
  return out.indices();
}

}  // namespace

void implement_table_rows(Library& m) {
  m.impl("rows_ascend", TORCH_BOX(&rows_ascend));
  m.impl("coalesce_rows", TORCH_BOX(&coalesce_rows));
  m.impl("empty_rows", TORCH_BOX(&empty_rows));
  m.impl("distinct_items", TORCH_BOX(&distinct_items));
  m.impl("distinct_neighbors", TORCH_BOX(&distinct_neighbors));
}

}  // namespace resemb
