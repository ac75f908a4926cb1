// Which experts a router wants that goes by sigmoid scores with a bias, all experts or those of the groups that are
// rated best, bit for bit as `Router::top_k`: takes the logits of a layer, and hands on the k best, best first.
//
// Scores are asked for as logits come, one in two cycles. A group is rated by its best score or by the sum of its two
// best; then the experts of the groups that are open go through a chain, again one in two cycles, as their keys are
// long. Groups have a power of two of experts, and at most OPEN of at most 32 are open.
module unit_scores #(
  parameter int unsigned E = 256,
  parameter int unsigned K = 8,
  parameter int unsigned LAYERS = 1,
  parameter int unsigned OPEN = 8,
  parameter int unsigned ID = $clog2(E),
  parameter int unsigned RANK = (K > 1) ? $clog2(K) : 1,
  parameter int unsigned ADDRESS = $clog2(LAYERS * E)
) (
  input  logic               clk,
  input  logic               rst_n,
  input  logic               start,
  input  logic               cancel,
  // What the registers say; holds still. No group is open where there are none.
  input  logic [ID:0]        experts,
  input  logic [RANK:0]      k,
  input  logic [3:0]         open,
  input  logic [3:0]         size_log2,
  input  logic               two_best,
  // The layer's first place, a multiple of E.
  input  logic [ADDRESS-1:0] base,
  // Logits in the order of their experts, and whether each is resident.
  input  logic               in_valid,
  input  logic               in_last,
  input  logic [31:0]        in_logit,
  input  logic [ID-1:0]      in_expert,
  input  logic               in_resident,
  // Scores are asked for, and come in that order.
  input  logic               score_ready,
  output logic               ask,
  output logic [31:0]        ask_logit,
  input  logic               score_valid,
  input  logic [31:0]        score,
  // The wanted; a greater order is a better rank.
  output logic               out_valid,
  output logic               out_last,
  output logic [RANK-1:0]    out_order,
  output logic [31:0]        out_logit,
  output logic [ID-1:0]      out_expert,
  output logic               out_resident,
  // The window for software, while nothing else goes on: the biases.
  input  logic               window_read,
  input  logic               window_write,
  input  logic [ADDRESS-1:0] window_address,
  input  logic [31:0]        window_data,
  output logic [31:0]        bias
);
  // A value has 31 bits behind the point: a score, and a bias of 16 and 16 bits.
  localparam int unsigned VALUE = 48;
  localparam int unsigned KEY = VALUE + 32 + ID;
  localparam int unsigned RATING = VALUE + 1 + 5;

  typedef enum logic [2:0] {IDLE, SCORES, RATED, RANKS, SETTLE, GIVE} state_t;
  state_t state;
  // Logits that are there; the one that is asked for or ranked next; scores that are there.
  logic [ID:0] there, next, scored;
  logic complete;
  logic [7:0] count;

  // Logits, with their sign turned over, and who is resident.
  logic [32:0] stored;
  unit_ram #(.WIDTH(33), .DEPTH(E)) logits (
    .clk, .read(1'b1), .read_address(next[ID-1:0]), .read_data(stored),
    .write(in_valid), .write_address(in_expert), .write_data({in_resident, ~in_logit[31], in_logit[30:0]})
  );
  wire looks = state == SCORES & next < there & score_ready;
  always_ff @(posedge clk or negedge rst_n) begin
    if (!rst_n) ask <= 1'b0;
    else ask <= looks;
  end
  assign ask_logit = stored[31:0];

  // Values, and the two best of a group.
  logic [VALUE-1:0] value, value_there, best, second;
  logic [VALUE:0] rating;
  logic score_there, value_valid, compared, rated, above_best, above_second, first, last_of_group;
  logic [ID-1:0] valued, compared_id, rated_id;
  logic [31:0] score_1;
  unit_ram #(.WIDTH(32), .DEPTH(LAYERS * E)) biases (
    .clk, .read(1'b1), .read_address(window_read ? window_address : base | ADDRESS'(scored[ID-1:0])), .read_data(bias),
    .write(window_write), .write_address(window_address), .write_data(window_data)
  );
  unit_ram #(.WIDTH(VALUE), .DEPTH(E)) values (
    .clk, .read(1'b1), .read_address(next[ID-1:0]), .read_data(value_there),
    .write(value_valid), .write_address(valued), .write_data(value)
  );
  logic [ID-1:0] of_group;
  always_ff @(posedge clk) begin
    // Which bits of an id tell the experts of a group apart.
    of_group <= ~({ID{1'b1}} << size_log2);
    score_1 <= score;
    if (score_there) begin
      value <= {bias[31], bias, 15'd0} + VALUE'(score_1);
      valued <= scored[ID-1:0];
    end
    above_best <= $signed(value) > $signed(best);
    above_second <= $signed(value) > $signed(second);
    compared_id <= valued;
    first <= (valued & of_group) == '0;
    if (compared) begin
      if (first) begin
        best <= value;
        second <= {1'b1, {(VALUE-1){1'b0}}};
      end else begin
        if (above_best) best <= value;
        if (above_best) second <= best;
        else if (above_second) second <= value;
      end
    end
    last_of_group <= compared & (compared_id & of_group) == of_group;
    rated_id <= compared_id;
    rating <= {best[VALUE-1], best} + (two_best & of_group[0] ? {second[VALUE-1], second} : '0);
  end
  always_ff @(posedge clk or negedge rst_n) begin
    if (!rst_n) {rated, compared, value_valid, score_there} <= '0;
    else if (start) {rated, compared, value_valid, score_there} <= '0;
    else begin
      {rated, compared, value_valid, score_there} <= {last_of_group, value_valid, score_there, score_valid};
    end
  end

  // The best groups, of equals the first.
  logic [ID-1:0] rated_group, rated_id_later;
  logic [OPEN-1:0] open_cells, cells_full;
  logic [OPEN*RATING-1:0] open_keys;
  logic [31:0] is_open;
  always_ff @(posedge clk) begin
    rated_id_later <= rated_id;
    for (int unsigned i = 0; i < OPEN; i++) open_cells[i] <= 4'(i) < open;
  end
  assign rated_group = rated_id_later >> size_log2;
  unit_rank_chain #(.K(OPEN), .KEY(RATING), .DATA(1)) groups (
    .clk, .rst_n, .clear(start), .enabled(open_cells), .now(1'b1), .in_valid(rated),
    .in_key({~rating[VALUE], rating[VALUE-1:0], ~rated_group[4:0]}), .in_data(1'b0),
    .out_valid(), .out_key(), .out_data(), .full(cells_full), .keys(open_keys), .data()
  );
  always_ff @(posedge clk) begin
    is_open <= {32{open == '0}};
    for (int unsigned i = 0; i < OPEN; i++) begin
      if (cells_full[i]) is_open[~open_keys[i*RATING+:5]] <= 1'b1;
    end
  end

  // The experts of open groups: a key of two cycles.
  logic [ID-1:0] ranked;
  logic now, ranking;
  logic [K-1:0] in_use, cells_there, resident_there;
  logic [K*KEY-1:0] keys;
  wire [ID-1:0] next_group = next[ID-1:0] >> size_log2;
  for (genvar i = 0; i < K; i++) begin : use_of_cells
    always_ff @(posedge clk) if (start) in_use[i] <= (RANK + 1)'(i) < k;
  end
  always_ff @(posedge clk) begin
    ranked <= next[ID-1:0];
    ranking <= state == RANKS & next < experts & is_open[next_group[4:0]];
  end
  unit_rank_chain #(.K(K), .KEY(KEY), .DATA(1), .SLOW(1'b1)) chain (
    .clk, .rst_n, .clear(start), .enabled(in_use), .now(~now), .in_valid(ranking),
    .in_key({~value_there[VALUE-1], value_there[VALUE-2:0], stored[31:0], ~ranked}), .in_data(stored[32]),
    .out_valid(), .out_key(), .out_data(), .full(cells_there), .keys, .data(resident_there)
  );

  // They are handed on.
  wire last_rank = 8'(k) == count + 8'd1;
  logic [K*(KEY-VALUE+1)-1:0] wanted;
  logic [KEY-VALUE:0] picked;
  for (genvar i = 0; i < K; i++) begin : ranks
    assign wanted[i*(KEY-VALUE+1)+:KEY-VALUE+1] = {resident_there[i], keys[i*KEY+:KEY-VALUE]};
  end
  unit_pick #(.N(K), .WIDTH(KEY - VALUE + 1)) pick_wanted (.entries(wanted), .index(count[RANK-1:0]), .entry(picked));
  always_ff @(posedge clk) begin
    out_resident <= picked[32+ID];
    out_logit <= {~picked[31+ID], picked[30+ID:ID]};
    out_expert <= ~picked[ID-1:0];
    out_order <= ~count[RANK-1:0];
    out_last <= last_rank;
  end
  always_ff @(posedge clk or negedge rst_n) begin
    if (!rst_n) out_valid <= 1'b0;
    else out_valid <= state == GIVE & ~cancel;
  end

  always_ff @(posedge clk or negedge rst_n) begin
    if (!rst_n) begin
      state <= IDLE;
      {there, next, scored, complete, count, now} <= '0;
    end else if (start) begin
      state <= SCORES;
      {there, next, scored, complete, count, now} <= '0;
    end else if (cancel) begin
      state <= IDLE;
    end else begin
      if (in_valid) there <= there + 1'b1;
      if (in_valid && in_last) complete <= 1'b1;
      count <= count + 8'd1;
      now <= ~now;
      case (state)
        IDLE: ;
        SCORES: begin
          if (looks) next <= next + 1'b1;
          if (score_there) scored <= scored + 1'b1;
          count <= '0;
          if (complete && scored == there) state <= RATED;
        end
        // The last group goes through its chain.
        RATED: begin
          next <= '0;
          now <= 1'b0;
          if (count == 8'(OPEN + 6)) state <= RANKS;
        end
        // A word of each memory is there in the second cycle of its expert, and in the first of the next one.
        RANKS: begin
          count <= '0;
          if (now) next <= next + 1'b1;
          if (next == experts && now) state <= SETTLE;
        end
        SETTLE: if (count == 8'(2 * K + 2)) begin
          state <= GIVE;
          count <= '0;
        end
        GIVE: if (last_rank) state <= IDLE;
        default: state <= IDLE;
      endcase
    end
  end
endmodule
