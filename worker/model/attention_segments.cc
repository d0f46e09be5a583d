#include "worker/model/attention_segments.h"

#include <algorithm>
#include <limits>

#include "worker/model/attention_prepare.h"

namespace graft::model {
namespace {

constexpr int64_t kScoreBytes = int64_t{64} << 20;  // of a block, for all heads

// Queries [query, query + queries) of the rows and the keys that some of them see; the first query
// stands at the place of the key `place`, counted from the first of these keys.
struct SegmentBlock {
  int64_t query = 0, queries = 0;
  int64_t key = 0, keys = 0;
  int64_t place = 0;
};

template <typename F>
void ForBlocks(const Attention& a, const std::vector<AttentionSegment>& segments, const F& visit) {
  for (const AttentionSegment& s : segments) {
    const int64_t row_bytes =
        std::max<int64_t>(1, s.keys) * a.heads * static_cast<int64_t>(sizeof(float));
    const int64_t most = std::max<int64_t>(1, kScoreBytes / row_bytes);
    for (int64_t first = 0; first < s.queries; first += most) {
      const int64_t queries = std::min(most, s.queries - first);
      const int64_t place = s.place + first;
      const int64_t begin = a.window > 0 ? std::max<int64_t>(0, place - a.window + 1) : 0;
      const int64_t end = std::min(s.keys, place + queries);
      if (begin >= end) continue;
      visit(SegmentBlock{s.query_begin + first, queries, s.key_begin + begin, end - begin,
                         place - begin});
    }
  }
}

// [T, K G, X] rows of a block as [K, G L, X]; and the other way.
at::Tensor ByKvHead(const Attention& a, const at::Tensor& rows) {
  const int64_t tokens = rows.size(0), width = rows.size(2);
  return rows.reshape({tokens, a.kv_heads, -1, width})
      .permute({1, 2, 0, 3})
      .reshape({a.kv_heads, -1, width});
}
at::Tensor ByRow(const Attention& a, const at::Tensor& heads, int64_t tokens) {
  const int64_t width = heads.size(2);
  return heads.view({a.kv_heads, -1, tokens, width})
      .permute({2, 0, 1, 3})
      .reshape({tokens, -1, width});
}

struct Scores {
  at::Tensor values;  // [H, L, keys]; -infinity where a query does not see a key
  at::Tensor tanh;    // of the softcap; undefined without
};

Scores ScoresOf(const Attention& a, const SegmentBlock& b, const at::Tensor& q,
                const at::Tensor& k) {
  Scores scores;
  scores.values =
      at::bmm(q, k.transpose(1, 2)).to(SumType(q)).mul_(a.scale).view({a.heads, b.queries, b.keys});
  if (a.softcap > 0) {
    scores.tanh = at::tanh(scores.values / a.softcap);
    scores.values = scores.tanh * a.softcap;
  }
  const auto options = q.options().dtype(at::kLong);
  const at::Tensor behind =  // how many keys a key stands behind the query's own
      at::arange(b.place, b.place + b.queries, options).unsqueeze(1) -
      at::arange(b.keys, options).unsqueeze(0);
  at::Tensor hidden = behind.lt(0);
  if (a.window > 0) hidden = hidden.logical_or_(behind.ge(a.window));
  scores.values = scores.values.masked_fill(hidden, -std::numeric_limits<double>::infinity());
  return scores;
}

// exp(scores - lse), 0 where there is nothing to see.
at::Tensor Shares(const at::Tensor& scores, const at::Tensor& lse) {
  return at::exp(scores - lse.masked_fill(lse.isinf(), 0.0).unsqueeze(2));
}

// Of a block, by the heads of k and v.
struct BlockRows {
  at::Tensor q, k, v;
  BlockRows(const Attention& a, const SegmentBlock& b, const SegmentRows& in)
      : q(ByKvHead(a, in.q.narrow(0, b.query, b.queries))),
        k(ByKvHead(a, in.k.narrow(0, b.key, b.keys))),
        v(ByKvHead(a, in.v.narrow(0, b.key, b.keys))) {}
};

}  // namespace

SegmentRows SegmentRowsOf(const Attention& a, const at::Tensor& q, const at::Tensor& kv) {
  const auto heads = [&](const at::Tensor& rows, Part part, int64_t begin) {
    const int64_t count = PartHeads(a, part), dim = PartDim(a, part);
    return rows.narrow(1, begin, count * dim).view({rows.size(0), count, dim});
  };
  return {heads(q, Part::kQ, 0), heads(kv, Part::kK, 0),
          heads(kv, Part::kV, PartBegin(a, Part::kV) - PartBegin(a, Part::kK))};
}

SegmentRows SegmentRowsOf(const Attention& a, const at::Tensor& qkv) {
  const int64_t begin = PartBegin(a, Part::kK);
  return SegmentRowsOf(a, qkv, qkv.narrow(1, begin, qkv.size(1) - begin));
}

void SegmentsForward(const Attention& a, const std::vector<AttentionSegment>& segments,
                     const SegmentRows& in, at::Tensor& o, at::Tensor& lse) {
  ForBlocks(a, segments, [&](const SegmentBlock& b) {
    const BlockRows rows(a, b, in);
    const at::Tensor scores = ScoresOf(a, b, rows.q, rows.k).values;
    const at::Tensor sums = at::logsumexp(scores, 2);
    const at::Tensor p = Shares(scores, sums).to(rows.v.scalar_type());
    const at::Tensor out = ByRow(a, at::bmm(p.view({a.kv_heads, -1, b.keys}), rows.v), b.queries);
    o.narrow(0, b.query, b.queries).copy_(out.reshape({b.queries, a.out_width()}));
    lse.narrow(1, b.query, b.queries).copy_(sums);
  });
}

void SegmentsBackward(const Attention& a, const std::vector<AttentionSegment>& segments,
                      const SegmentRows& in, const at::Tensor& o, const at::Tensor& lse,
                      const at::Tensor& d_o, const SegmentRows& d) {
  const auto type = in.q.scalar_type();
  const std::vector<int64_t> heads = {o.size(0), a.heads, a.value_dim};
  const at::Tensor pull_HT =
      (o.to(lse.scalar_type()) * d_o.to(lse.scalar_type())).view(heads).sum(2).t();
  const at::Tensor dy_THE = d_o.to(type).view(heads);
  ForBlocks(a, segments, [&](const SegmentBlock& b) {
    const BlockRows rows(a, b, in);
    const Scores scores = ScoresOf(a, b, rows.q, rows.k);
    const at::Tensor p = Shares(scores.values, lse.narrow(1, b.query, b.queries));
    const at::Tensor dy = ByKvHead(a, dy_THE.narrow(0, b.query, b.queries));
    at::Tensor d_scores = at::bmm(dy, rows.v.transpose(1, 2)).to(p.scalar_type()).view_as(p);
    d_scores.sub_(pull_HT.narrow(1, b.query, b.queries).unsqueeze(2)).mul_(p);
    if (scores.tanh.defined()) d_scores.mul_(1 - scores.tanh.square());
    const std::vector<int64_t> by_kv = {a.kv_heads, -1, b.keys};
    d_scores = d_scores.mul_(a.scale).to(type).view(by_kv);
    const auto add = [&](const at::Tensor& to, int64_t begin, int64_t count, const at::Tensor& x) {
      to.narrow(0, begin, count).add_(ByRow(a, x, count));
    };
    add(d.q, b.query, b.queries, at::bmm(d_scores, rows.k));
    add(d.k, b.key, b.keys, at::bmm(d_scores.transpose(1, 2), rows.q));
    add(d.v, b.key, b.keys, at::bmm(p.to(type).view(by_kv).transpose(1, 2), dy));
  });
}

}  // namespace graft::model
