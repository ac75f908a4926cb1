// The K greatest keys of a stream in order, one key a cycle: a row of cells, each of which keeps the greater of its key
// and the one that comes, and hands the other on a cycle later. What the last cell hands on is not among the K.
//
// No key stands twice in a stream, as it ends with an id. Cells that are not `enabled` hand everything on.
//
// A SLOW row takes a key in two cycles, in which it holds still, as long keys are compared in the first and kept in the
// second, which is `now`; of others it is always now.
module unit_rank_chain #(
  parameter int unsigned K = 8,
  parameter int unsigned KEY = 42,
  parameter int unsigned DATA = 1,
  parameter bit SLOW = 1'b0
) (
  input  logic              clk,
  input  logic              rst_n,
  input  logic              clear,
  input  logic              now,
  input  logic [K-1:0]      enabled,
  input  logic              in_valid,
  input  logic [KEY-1:0]    in_key,
  input  logic [DATA-1:0]   in_data,
  output logic              out_valid,
  output logic [KEY-1:0]    out_key,
  output logic [DATA-1:0]   out_data,
  output logic [K-1:0]      full,
  output logic [K*KEY-1:0]  keys,
  output logic [K*DATA-1:0] data
);
  logic [K:0] valid;
  logic [(K+1)*(KEY+DATA)-1:0] moving;

  assign valid[0] = in_valid;
  assign moving[KEY+DATA-1:0] = {in_data, in_key};
  for (genvar i = 0; i < K; i++) begin : cells
    unit_rank_cell #(.KEY(KEY), .DATA(DATA), .SLOW(SLOW)) rank_cell (
      .clk, .rst_n, .clear, .now, .enabled(enabled[i]),
      .in_valid(valid[i]), .in_key(moving[i*(KEY+DATA)+:KEY]), .in_data(moving[i*(KEY+DATA)+KEY+:DATA]),
      .out_valid(valid[i+1]), .out_key(moving[(i+1)*(KEY+DATA)+:KEY]),
      .out_data(moving[(i+1)*(KEY+DATA)+KEY+:DATA]),
      .full(full[i]), .key(keys[i*KEY+:KEY]), .data(data[i*DATA+:DATA])
    );
  end
`ifdef FORMAL
  // Keys that come are in no cell and on no way. What is kept is in order, so that no key is there twice, and what is
  // handed on is below what is kept where it comes from; all of that follows from the state a cycle before.
  for (genvar i = 0; i < K; i++) begin : order
    wire [KEY-1:0] key = keys[i*KEY+:KEY];
    wire [KEY-1:0] on_its_way = moving[(i+1)*(KEY+DATA)+:KEY];
    always_ff @(posedge clk) begin
      if (in_valid) assume (!(full[i] && in_key == key) && !(valid[i+1] && in_key == on_its_way));
      assume (enabled == '1 && now);
      if (rst_n) begin
        if (valid[i+1]) assert (full[i] && on_its_way < key);
      end
    end
    if (i > 0) begin : below
      wire [KEY-1:0] above = keys[(i-1)*KEY+:KEY];
      wire [KEY-1:0] comes = moving[i*(KEY+DATA)+:KEY];
      always_ff @(posedge clk) begin
        if (rst_n && full[i]) assert (full[i-1] && key < above);
        if (rst_n && full[i] && valid[i]) assert (key != comes);
        if (rst_n && valid[i+1] && valid[i]) assert (on_its_way != comes);
      end
    end
  end
`endif
  assign out_valid = valid[K];
  assign out_key = moving[K*(KEY+DATA)+:KEY];
  assign out_data = moving[K*(KEY+DATA)+KEY+:DATA];
endmodule

module unit_rank_cell #(
  parameter int unsigned KEY = 42,
  parameter int unsigned DATA = 1,
  parameter bit SLOW = 1'b0
) (
  input  logic            clk,
  input  logic            rst_n,
  input  logic            clear,
  input  logic            now,
  input  logic            enabled,
  input  logic            in_valid,
  input  logic [KEY-1:0]  in_key,
  input  logic [DATA-1:0] in_data,
  output logic            out_valid,
  output logic [KEY-1:0]  out_key,
  output logic [DATA-1:0] out_data,
  output logic            full,
  output logic [KEY-1:0]  key,
  output logic [DATA-1:0] data
);
  wire greater = in_key > key;
  logic above;
  if (SLOW) begin : a_cycle_later
    always_ff @(posedge clk) above <= greater;
  end else begin : at_once
    assign above = greater;
  end
  wire takes = in_valid & enabled & now & (~full | above);

  always_ff @(posedge clk) begin
    if (takes) {data, key} <= {in_data, in_key};
    if (now) {out_data, out_key} <= takes ? {data, key} : {in_data, in_key};
  end

  always_ff @(posedge clk or negedge rst_n) begin
    if (!rst_n) begin
      full <= 1'b0;
      out_valid <= 1'b0;
    end else if (clear) begin
      full <= 1'b0;
      out_valid <= 1'b0;
    end else if (now) begin
      full <= full | takes;
      out_valid <= in_valid & (full | ~takes);
    end
  end
endmodule
