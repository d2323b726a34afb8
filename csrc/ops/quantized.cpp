// The operators of a served table: lookups and bags, on the CPU.
#include "common/quantized.h"

#include <string>
#include <utility>
#include <vector>

#include "ops/call.h"
#include "ops/operators.h"

namespace resemb {
namespace {

// Larger outputs do not stay in cache.
constexpr int64_t kBypassBytes = int64_t{16} << 20;

RowFormat format_of(int64_t bits_each) {
  switch (bits_each) {
    case 4:
      return RowFormat::i4;
    case 8:
      return RowFormat::i8;
    case 16:
      return RowFormat::f16;
    case 32:
      return RowFormat::f32;
    default:
      fail_value("bits_each: found " + std::to_string(bits_each) + "; expected 4, 8, 16 or 32");
  }
}

int64_t dim_of(RowFormat format, const Tensor& base) {
  check_shape(base.dim() == 2, "base", base, "[rows, row bytes]");
  const int64_t bytes = base.size(1);
  const int64_t dim = format == RowFormat::f32   ? bytes / 4
                      : format == RowFormat::f16 ? bytes / 2
                      : format == RowFormat::i8  ? bytes - 8
                                                 : 2 * (bytes - 4);
  check_shape(dim >= 1 && row_bytes(format, dim) == bytes, "base", base,
              "[rows, the bytes of a row of numbers]");
  return dim;
}

// The checked arguments that both operators share, contiguous.
struct ServedInputs {
  const Call call;
  const Tensor ids, base, bits, before, overlay;

  ServedInputs(const Tensor& ids_in, const Tensor& base_in, const Tensor& bits_in, const Tensor& before_in,
               const Tensor& overlay_in, int64_t bits_each, int64_t rows, int64_t oov, int64_t padding,
               ServedRows& x)
      : call(ids_in, "ids"),
        ids(call.dense(ids_in, "ids")),
        base(call.dense(base_in, "base")),
        bits(call.dense(bits_in, "bits")),
        before(call.dense(before_in, "before")),
        overlay(call.dense(overlay_in, "overlay")) {
    check_type(base, ScalarType::Byte, "base");
    x.format = format_of(bits_each);
    x.dim = dim_of(x.format, base);
    x.rows = rows;
    x.base = static_cast<const char*>(base.const_data_ptr());
    x.base_rows = base.size(0);
    x.bits = nullptr;
    x.before = nullptr;
    x.overlay = nullptr;
    x.overlay_rows = 0;
    const bool overlaid = bits.numel() > 0;
    if (overlaid) take_overlay(x);
    if (rows < 0 || (!overlaid && rows > x.base_rows)) {
      fail_value("rows: found " + std::to_string(rows) + "; expected at most " + std::to_string(x.base_rows) +
                 ", those of base, without an overlay");
    }
    x.oov = row_or_none(oov, rows, "oov");
    x.padding = row_or_none(padding, rows, "padding");
    x.ids = {ids.const_data_ptr(), is_int64(ids, "ids"), ids.numel()};
  }

  // The output, [*size, D].
  Tensor make(std::vector<int64_t> size, ServedRows& x) const {
    size.push_back(x.dim);
    Tensor out = call.output(size, ScalarType::Float);
    x.out = static_cast<float*>(out.mutable_data_ptr());
    x.bypass_cache = out.numel() * 4 >= kBypassBytes;
    return out;
  }

 private:
  void take_overlay(ServedRows& x) const {
    const int64_t words = (x.rows + 63) / 64;
    check_type(bits, ScalarType::Long, "bits");
    check_type(before, ScalarType::Int, "before");
    check_type(overlay, ScalarType::Byte, "overlay");
    for (const auto& [tensor, name] : {std::pair{&bits, "bits"}, std::pair{&before, "before"}}) {
      check_shape(tensor->dim() == 1 && tensor->size(0) == words, name, *tensor,
                  "[" + std::to_string(words) + "], one for 64 rows");
    }
    check_shape(overlay.dim() == 2 && overlay.size(1) == base.size(1), "overlay", overlay,
                "[*, " + std::to_string(base.size(1)) + "], as base");
    x.bits = static_cast<const uint64_t*>(bits.const_data_ptr());
    x.before = static_cast<const int32_t*>(before.const_data_ptr());
    x.overlay = static_cast<const char*>(overlay.const_data_ptr());
    x.overlay_rows = overlay.size(0);
  }

  static int64_t row_or_none(int64_t row, int64_t rows, const char* name) {
    if (row >= -1 && row < rows) return row;
    fail_value(std::string(name) + ": found " + std::to_string(row) + "; expected -1 or a row below " +
               std::to_string(rows));
  }
};

Tensor read_rows(const Tensor& ids, const Tensor& base, const Tensor& bits, const Tensor& before,
                 const Tensor& overlay, int64_t bits_each, int64_t rows, int64_t oov, int64_t padding) {
  ServedRows x;
  const ServedInputs in(ids, base, bits, before, overlay, bits_each, rows, oov, padding, x);
  std::vector<int64_t> size;
  for (int64_t i = 0; i < ids.dim(); ++i) size.push_back(ids.size(i));
  Tensor out = in.make(std::move(size), x);
  in.call.backend().read_rows(x);
  return out;
}

Tensor pool_rows(const Tensor& ids, const OptionalTensor& offsets_in, const OptionalTensor& weights_in,
                 bool ends, int64_t divisor, const Tensor& base, const Tensor& bits, const Tensor& before,
                 const Tensor& overlay, int64_t bits_each, int64_t rows, int64_t oov, int64_t padding) {
  ServedBags x;
  const ServedInputs in(ids, base, bits, before, overlay, bits_each, rows, oov, padding, x);
  x.ends = ends;
  x.width = 0;
  x.offsets = nullptr;
  x.weights = nullptr;
  OptionalTensor offsets, weights;
  if (offsets_in.has_value()) {
    offsets = in.call.dense(*offsets_in, "offsets");
    check_type(*offsets, ScalarType::Long, "offsets");
    check_shape(offsets->dim() == 1 && offsets->size(0) >= (ends ? 1 : 0), "offsets", *offsets,
                ends ? "[B + 1]" : "[B]");
    check_shape(ids.dim() == 1, "ids", ids, "[P], with offsets");
    x.num_bags = offsets->size(0) - (ends ? 1 : 0);
    x.offsets = static_cast<const int64_t*>(offsets->const_data_ptr());
  } else {
    check_shape(ids.dim() == 2, "ids", ids, "[B, N], without offsets");
    x.num_bags = ids.size(0);
    x.width = ids.size(1);
  }
  if (weights_in.has_value()) {
    weights = in.call.dense(*weights_in, "weights");
    check_type(*weights, ScalarType::Float, "weights");
    check_shape(weights->numel() == ids.numel(), "weights", *weights, "that of ids, " + shape_of(ids));
    x.weights = static_cast<const float*>(weights->const_data_ptr());
  }
  if (divisor < 0 || divisor > 2) {
    fail_value("divisor: found " + std::to_string(divisor) + "; expected 0, 1 or 2");
  }
  x.divisor = static_cast<Divisor>(divisor);
  Tensor out = in.make({x.num_bags}, x);
  in.call.backend().pool_rows(x);
  return out;
}

}  // namespace

void implement_quantized(Library& m) {
  m.impl("read_rows", TORCH_BOX(&read_rows));
  m.impl("pool_rows", TORCH_BOX(&pool_rows));
}

}  // namespace resemb
