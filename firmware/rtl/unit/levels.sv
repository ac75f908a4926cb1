// The levels of all layers, slow and fast of each expert in a word, as `cptr_core::ScaledLevels` stores them. While the
// logits of a token come in, each expert's levels are read with them, so that the residents least likely to be wanted
// are known as soon as the choice is: the K with the lowest scores are enough, as of those no more than are resident
// and chosen may have to stay.
module unit_levels #(
  parameter int unsigned E = 256,
  parameter int unsigned K = 8,
  parameter int unsigned LAYERS = 1,
  parameter int unsigned ID = $clog2(E),
  parameter int unsigned ADDRESS = $clog2(LAYERS * E)
) (
  input  logic               clk,
  input  logic               rst_n,
  // The layer's first place, a multiple of E.
  input  logic [ADDRESS-1:0] base,
  // A scan: an expert; two cycles later whether it is resident.
  input  logic               clear_scan,
  input  logic               scan,
  input  logic [ID-1:0]      scan_expert,
  input  logic               scan_resident,
  input  logic [31:0]        slow_scale,
  input  logic [31:0]        fast_scale,
  output logic [K-1:0]       victim_full,
  output logic [K*ID-1:0]    victim_ids,
  // One expert is read, or raised; all are shifted down, or cleared. `busy` from the next cycle on.
  input  logic               read,
  input  logic               raise,
  input  logic               sweep,
  input  logic               wipe,
  input  logic [ID-1:0]      expert,
  input  logic [5:0]         slow_shift,
  input  logic [5:0]         fast_shift,
  input  logic [31:0]        slow_raise,
  input  logic [31:0]        fast_raise,
  output logic               busy,
  output logic [31:0]        slow,
  // The window for software, while nothing else goes on.
  input  logic               window_read,
  input  logic               window_write,
  input  logic [ADDRESS:0]   window_address,
  input  logic [31:0]        window_data,
  output logic [63:0]        stored
);
  typedef enum logic [1:0] {IDLE, RAISE, SWEEP, WIPE} state_t;
  state_t state;
  logic [ID:0] next;
  logic [2:0] step;
  logic [ID-1:0] target_1, target_2;
  logic valid_1, valid_2;

  logic read_now, write_now;
  logic [ADDRESS-1:0] read_at, write_at;
  logic [63:0] write_word, changed;
  unit_ram #(.WIDTH(64), .DEPTH(LAYERS * E)) ram (
    .clk, .read(read_now), .read_address(read_at), .read_data(stored),
    .write(write_now), .write_address(write_at), .write_data(write_word)
  );
  assign slow = stored[63:32];

  function automatic logic [31:0] saturated(input logic [31:0] a, input logic [31:0] b);
    saturated = a > ~b ? 32'hffff_ffff : a + b;
  endfunction

  assign busy = state != IDLE;
  assign read_now = scan | read | raise | window_read | (state == SWEEP & ~next[ID]);
  always_comb begin
    read_at = base | ADDRESS'(next[ID-1:0]);
    if (scan) read_at = base | ADDRESS'(scan_expert);
    else if (read || raise) read_at = base | ADDRESS'(expert);
    else if (window_read || window_write) read_at = window_address[ADDRESS:1];
    write_at = base | ADDRESS'(target_2);
    write_word = changed;
    write_now = valid_2;
    if (state == WIPE) begin
      write_at = base | ADDRESS'(next[ID-1:0]);
      write_word = '0;
      write_now = ~next[ID];
    end else if (window_write) begin
      // The other half stays as it was read.
      write_at = window_address[ADDRESS:1];
      write_word = window_address[0] ? {stored[63:32], window_data} : {window_data, stored[31:0]};
      write_now = 1'b1;
    end
  end

  always_ff @(posedge clk) begin
    target_1 <= raise ? expert : next[ID-1:0];
    target_2 <= target_1;
    changed <= state == SWEEP
      ? {stored[63:32] >> slow_shift, stored[31:0] >> fast_shift}
      : {saturated(stored[63:32], slow_raise), saturated(stored[31:0], fast_raise)};
  end
  always_ff @(posedge clk or negedge rst_n) begin
    if (!rst_n) begin
      state <= IDLE;
      {next, step} <= '0;
      {valid_2, valid_1} <= '0;
    end else begin
      valid_1 <= raise | (state == SWEEP & ~next[ID]);
      valid_2 <= valid_1;
      step <= step + 3'd1;
      case (state)
        IDLE: begin
          next <= '0;
          step <= '0;
          if (raise) state <= RAISE;
          else if (sweep) state <= SWEEP;
          else if (wipe) state <= WIPE;
        end
        RAISE: if (step == 3'd1) state <= IDLE;
        SWEEP: begin
          if (!next[ID]) next <= next + 1'b1;
          else if (!valid_1 && !valid_2) state <= IDLE;
        end
        default: begin
          next <= next + 1'b1;
          if (next[ID]) state <= IDLE;
        end
      endcase
    end
  end

  // Scores of the scan: `slow + fast / 4`, six cycles after the expert came.
  logic [63:0] slow_product, fast_product;
  unit_multiply #(.A(32), .B(32)) by_slow (.clk, .a(stored[63:32]), .b(slow_scale), .product(slow_product));
  unit_multiply #(.A(32), .B(32)) by_fast (.clk, .a(stored[31:0]), .b(fast_scale), .product(fast_product));
  logic [31:0] score;
  logic [ID-1:0] expert_6;
  logic resident_6;
  logic [5:0] scanned;
  always_ff @(posedge clk) score <= slow_product[63:32] + (fast_product[63:32] >> 2);
  unit_delay #(.WIDTH(ID), .CYCLES(6)) expert_line (.clk, .in(scan_expert), .out(expert_6));
  unit_delay #(.WIDTH(1), .CYCLES(4)) resident_line (.clk, .in(scan_resident), .out(resident_6));
  always_ff @(posedge clk or negedge rst_n) begin
    if (!rst_n) scanned <= '0;
    else if (clear_scan) scanned <= '0;
    else scanned <= {scanned[4:0], scan};
  end

  // The lowest scores, and of equals the lowest ids.
  logic [K*(32+ID)-1:0] victims;
  unit_rank_chain #(.K(K), .KEY(32 + ID), .DATA(1)) victim_chain (
    .clk, .rst_n, .clear(clear_scan), .now(1'b1), .enabled({K{1'b1}}),
    .in_valid(scanned[5] & resident_6), .in_key({~score, ~expert_6}), .in_data(1'b0),
    .out_valid(), .out_key(), .out_data(), .full(victim_full), .keys(victims), .data()
  );
  for (genvar i = 0; i < K; i++) begin : ids
    assign victim_ids[i*ID+:ID] = ~victims[i*(32+ID)+:ID];
  end
endmodule
