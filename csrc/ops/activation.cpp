// The operators of DIN's attention unit: on the CPU, where its passes over memory cost more than its
// products.
#include <string>
#include <tuple>
#include <utility>

#include "common/activation.h"
#include "ops/call.h"
#include "ops/operators.h"

namespace resemb {
namespace {

// The checked arguments that both directions share, contiguous.
struct ActivationInputs {
  const Call call;
  const Tensor keys, query;
  const ScalarType type;
  const OptionalTensor starts;
  const Tensor offsets, by_query, w_key, w_product, slope, out_weight, out_bias;
  ActivationArgs args{};

  ActivationInputs(const Tensor& keys_in, const Tensor& query_in, const OptionalTensor& starts_in,
                   const Tensor& offsets_in, const Tensor& by_query_in, const Tensor& w_key_in,
                   const Tensor& w_product_in, const Tensor& slope_in, const Tensor& out_weight_in,
                   const Tensor& out_bias_in)
      : call(keys_in, "keys"),
        keys(call.dense(keys_in, "keys")),
        query(call.dense(query_in, "query")),
        type(keys.scalar_type()),
        starts(starts_in.has_value() ? OptionalTensor(call.dense(*starts_in, "starts")) : std::nullopt),
        offsets(call.dense(offsets_in, "offsets")),
        by_query(call.dense(by_query_in, "by_query")),
        w_key(call.dense(w_key_in, "w_key")),
        w_product(call.dense(w_product_in, "w_product")),
        slope(call.dense(slope_in, "slope")),
        out_weight(call.dense(out_weight_in, "out_weight")),
        out_bias(call.dense(out_bias_in, "out_bias")) {
    args.is_double = is_double(keys, "keys");
    check_shape(keys.dim() == 2, "keys", keys, "[K, D]");
    args.dim = keys.size(1);
    check_shape(w_key.dim() == 2 && w_key.size(1) == args.dim, "w_key", w_key, "[H, D], D that of keys");
    args.hidden = w_key.size(0);
    check_shape(query.dim() == 2 && query.size(1) == args.dim, "query", query, "[B, D], D that of keys");
    args.samples = query.size(0);
    check(by_query, "by_query", {args.samples, args.hidden});
    check(w_product, "w_product", {args.hidden, args.dim});
    check(slope, "slope", {args.hidden});
    check(out_weight, "out_weight", {args.hidden});
    check(out_bias, "out_bias", {1});
    for (const auto& [tensor, name] : {std::pair{&query, "query"}, std::pair{&w_key, "w_key"}}) {
      check_type(*tensor, type, name);
    }
    check_type(offsets, ScalarType::Long, "offsets");
    check_shape(offsets.dim() == 1 && offsets.size(0) == args.samples + 1, "offsets", offsets,
                "[B + 1], B the rows of query");
    args.offsets = static_cast<const int64_t*>(offsets.const_data_ptr());
    args.starts = args.offsets;
    if (starts.has_value()) {
      check_type(*starts, ScalarType::Long, "starts");
      check_shape(starts->dim() == 1 && starts->size(0) == args.samples, "starts", *starts,
                  "[B], B the rows of query");
      args.starts = static_cast<const int64_t*>(starts->const_data_ptr());
    }
    check_positions();
    args.keys = keys.const_data_ptr();
    args.query = query.const_data_ptr();
    args.by_query = by_query.const_data_ptr();
    args.w_key = w_key.const_data_ptr();
    args.w_product = w_product.const_data_ptr();
    args.slope = slope.const_data_ptr();
    args.out_weight = out_weight.const_data_ptr();
    args.out_bias = out_bias.const_data_ptr();
  }

  int64_t pairs() const { return args.offsets[args.samples]; }

  // A tensor of the keys' type, with its place in the arguments.
  Tensor make(const std::vector<int64_t>& size, void*& place) const {
    Tensor made = call.output(size, type);
    place = made.mutable_data_ptr();
    return made;
  }

  void check(const Tensor& t, const char* name, const std::vector<int64_t>& size) const {
    bool same = t.dim() == static_cast<int64_t>(size.size());
    std::string expected = "[";
    for (size_t i = 0; i < size.size(); ++i) {
      same = same && t.size(static_cast<int64_t>(i)) == size[i];
      expected += (i > 0 ? ", " : "") + std::to_string(size[i]);
    }
    check_shape(same, name, t, expected + "]");
    check_type(t, type, name);
  }

 private:
  void check_positions() const {
    const int64_t count = keys.size(0);
    if (args.offsets[0] != 0)
      fail_value("offsets: start at " + std::to_string(args.offsets[0]) + "; expected 0");
    for (int64_t b = 0; b < args.samples; ++b) {
      const int64_t n = args.offsets[b + 1] - args.offsets[b], first = args.starts[b];
      if (n < 0) {
        fail_value("offsets: fall from " + std::to_string(args.offsets[b]) + " to " +
                   std::to_string(args.offsets[b + 1]) + " at " + std::to_string(b + 1) +
                   "; expected ascending values");
      }
      if (n > 0 && (first < 0 || n > count - first)) {
        fail_value("offsets: sample " + std::to_string(b) + " has " + std::to_string(n) + " positions from " +
                   std::to_string(first) + " on, but keys have " + std::to_string(count) + " rows");
      }
    }
  }
};

std::tuple<Tensor, Tensor> forward(const Tensor& keys, const Tensor& query, const OptionalTensor& starts,
                                   const Tensor& offsets, const Tensor& by_query, const Tensor& w_key,
                                   const Tensor& w_product, const Tensor& slope, const Tensor& out_weight,
                                   const Tensor& out_bias, bool pool) {
  ActivationInputs in(keys, query, starts, offsets, by_query, w_key, w_product, slope, out_weight, out_bias);
  ActivationArgs& args = in.args;
  const Tensor scores = in.make({in.pairs()}, args.scores);
  const Tensor pooled = in.make({pool ? args.samples : 0, args.dim}, args.pooled);
  if (!pool) args.pooled = nullptr;
  in.call.backend().activate(args);
  return {scores, pooled};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const OptionalTensor& grad_scores_in, const OptionalTensor& grad_pooled_in, const Tensor& scores_in,
    const Tensor& keys, const Tensor& query, const Tensor& offsets, const Tensor& by_query,
    const Tensor& w_key, const Tensor& w_product, const Tensor& slope, const Tensor& out_weight,
    const Tensor& out_bias) {
  ActivationInputs in(keys, query, std::nullopt, offsets, by_query, w_key, w_product, slope, out_weight,
                      out_bias);
  ActivationArgs& args = in.args;
  const auto given = [&](const OptionalTensor& t, const char* name, const std::vector<int64_t>& size) {
    if (!t.has_value()) return OptionalTensor{};
    in.check(*t, name, size);
    return OptionalTensor(in.call.dense(*t, name));
  };
  const OptionalTensor grad_scores = given(grad_scores_in, "grad_scores", {in.pairs()});
  const OptionalTensor grad_pooled = given(grad_pooled_in, "grad_pooled", {args.samples, args.dim});
  const Tensor scores = in.call.dense(scores_in, "scores");
  in.check(scores, "scores", {in.pairs()});
  args.scores = const_cast<void*>(scores.const_data_ptr());  // read alone
  args.grad_scores = grad_scores.has_value() ? grad_scores->const_data_ptr() : nullptr;
  args.grad_pooled = grad_pooled.has_value() ? grad_pooled->const_data_ptr() : nullptr;
  const int64_t B = args.samples, D = args.dim, H = args.hidden, K = in.keys.size(0);
  // Keys that no sample has get zeros.
  const bool all = K == in.pairs();
  const Tensor of_keys = all ? in.make({K, D}, args.grad_keys) : in.call.zeros_if(true, {K, D}, in.type);
  if (!all) args.grad_keys = of_keys.mutable_data_ptr();
  const Tensor of_query = in.make({B, D}, args.grad_query);
  const Tensor of_by_query = in.make({B, H}, args.grad_by_query);
  const Tensor of_w_key = in.make({H, D}, args.grad_w_key);
  const Tensor of_w_product = in.make({H, D}, args.grad_w_product);
  const Tensor of_slope = in.make({H}, args.grad_slope);
  const Tensor of_out_weight = in.make({H}, args.grad_out_weight);
  const Tensor of_out_bias = in.make({1}, args.grad_out_bias);
  in.call.backend().activate_backward(args);
  return {of_keys, of_query, of_by_query, of_w_key, of_w_product, of_slope, of_out_weight, of_out_bias};
}

}  // namespace

void implement_activation(Library& m) {
  m.impl("local_activation", TORCH_BOX(&forward));
  m.impl("local_activation_backward", TORCH_BOX(&backward));
}

}  // namespace resemb
