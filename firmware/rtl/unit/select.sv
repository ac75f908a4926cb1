// One token in one layer: takes its logits, chooses the experts that it wants and those that run, and weighs them, bit
// for bit as `Router::top_k`, `select` and `Router::weights` of a router by softmax or, where it is made with SIGMOID,
// by sigmoid, without bias and groups. With these it takes the wanted experts themselves, in their order (scores.sv),
// and nobody stands in for them.
//
// The logits go through a chain that keeps the best k. Who is not among them goes, if resident, through a second chain
// of the same length: the stand-ins, best first. The wanted experts that are missing, the last first, are paired with
// them until a bound is spent; the pairs do not depend on where that is.
module unit_select #(
  parameter int unsigned E = 256,
  parameter int unsigned K = 8,
  parameter int unsigned DIVIDERS = 8,
  parameter int unsigned SIGMOID = 1,
  parameter int unsigned ID = $clog2(E),
  parameter int unsigned RANK = (K > 1) ? $clog2(K) : 1
) (
  input  logic              clk,
  input  logic              rst_n,
  input  logic              start,
  input  logic              cancel,
  // What the registers say; holds still.
  input  logic [ID:0]       experts,
  input  logic [RANK:0]     k,
  input  logic [6:0]        keep_top,
  input  logic [31:0]       eps_mass,
  input  logic [31:0]       eps_error,
  input  logic              error_bound,
  input  logic              of_chosen,
  input  logic              sigmoid,
  input  logic              scored,
  // Logits in the order of their experts, and whether each is resident; or, of a scored choice, those of the wanted, a
  // greater order for a better rank.
  input  logic              in_valid,
  input  logic              in_last,
  input  logic [RANK-1:0]   in_order,
  input  logic [31:0]       in_logit,
  input  logic [ID-1:0]     in_expert,
  input  logic              in_resident,
  // Sigmoids of what a scored choice asks for, while `score_ready` is high; the experts come afterwards.
  output logic              score_ready,
  input  logic              score_ask,
  input  logic [31:0]       score_logit,
  output logic              score_valid,
  output logic [31:0]       score,
  // The choice: of each rank the expert, a rank a cycle from `chosen` on, whether it stands in, whether it is missing.
  // Then the weights.
  output logic              chosen,
  output logic              weighed,
  output logic [RANK:0]     stand_ins,
  output logic [K*ID-1:0]   chosen_ids,
  output logic [K-1:0]      replaced,
  output logic [K-1:0]      missing,
  output logic [K*ID-1:0]   wanted_ids,
  output logic [K*32-1:0]   weights
);
  localparam int unsigned LOGIT = 32 + ID;
  localparam int unsigned KEY = LOGIT + (SIGMOID != 0 ? RANK : 0);

  // How masses are asked for: of the wanted, of the stand-ins, of all, of the chosen.
  localparam logic [1:0] WANTED = 2'd0, STAND_IN = 2'd1, ALL = 2'd2, CHOSEN = 2'd3;
  typedef enum logic [4:0] {
    IDLE, LOGITS, SETTLE, MASSES, STAND_INS, EVERY, COLLECT, BUDGET, PAIRS, SPEND, CHOOSE, WEIGH, COLLECT_CHOSEN,
    SCALE, SHARE, LOAD, DIVIDE, KEEP
  } state_t;
  state_t state;
  // Ranks and experts are counted; what the count ends with.
  logic [11:0] count, last_settling, last_rank, last_expert;
  always_ff @(posedge clk) begin
    last_settling <= scored ? 12'(K) : 12'(K - 1) - 12'(k);
    last_rank <= 12'(k) - 12'd1;
    last_expert <= 12'(experts) - 12'd1;
  end

  // The two chains. A greater key is a greater logit, and of equal ones a lower id.
  logic [K-1:0] in_use, wanted_full, stand_in_full, wanted_resident;
  logic [K*KEY-1:0] wanted_keys;
  logic [K*LOGIT-1:0] wanted_logits, stand_in_keys;
  logic loser_valid, loser_resident;
  logic [KEY-1:0] in_key, loser_key;
  if (SIGMOID != 0) begin : in_order_key
    assign in_key = {in_order & {RANK{scored}}, ~in_logit[31], in_logit[30:0], ~in_expert};
  end else begin : plain_key
    assign in_key = {~in_logit[31], in_logit[30:0], ~in_expert};
  end
  for (genvar i = 0; i < K; i++) begin : use_of_cells
    always_ff @(posedge clk) if (start) in_use[i] <= (RANK + 1)'(i) < k;
    assign wanted_logits[i*LOGIT+:LOGIT] = wanted_keys[i*KEY+:LOGIT];
    assign wanted_ids[i*ID+:ID] = ~wanted_keys[i*KEY+:ID];
  end
  unit_rank_chain #(.K(K), .KEY(KEY), .DATA(1)) wanted_chain (
    .clk, .rst_n, .clear(start), .now(1'b1), .enabled(in_use), .in_valid, .in_key, .in_data(in_resident),
    .out_valid(loser_valid), .out_key(loser_key), .out_data(loser_resident),
    .full(wanted_full), .keys(wanted_keys), .data(wanted_resident)
  );
  unit_rank_chain #(.K(K), .KEY(LOGIT), .DATA(1)) stand_in_chain (
    .clk, .rst_n, .clear(start), .now(1'b1), .enabled({K{1'b1}}),
    .in_valid(loser_valid & loser_resident), .in_key(loser_key[LOGIT-1:0]), .in_data(1'b0),
    .out_valid(), .out_key(), .out_data(), .full(stand_in_full), .keys(stand_in_keys), .data()
  );
  wire [31:0] greatest = wanted_logits[LOGIT-1-:32];

  // The logits once more, where all experts share the mass.
  logic [31:0] logit_again;
  logic [ID-1:0] again;
  unit_ram #(.WIDTH(32), .DEPTH(E)) logits (
    .clk, .read(state == EVERY), .read_address(again), .read_data(logit_again),
    .write(in_valid), .write_address(in_expert), .write_data({~in_logit[31], in_logit[30:0]})
  );

  // Masses: asked for one a cycle, of a sigmoid one in two, and where they come back. A cycle for who it is, one for
  // his logit.
  logic ask, ask_1, ask_2, mass_valid, stands_in_1, choosing_1, choosing_2;
  logic [1:0] kind, kind_1, kind_2, mass_kind;
  wire may_ask = ~sigmoid | score_ready;
  logic [RANK-1:0] index, index_1, index_2, place_1, mass_index;
  logic [31:0] value_2, largest, mass;
  logic [ID-1:0] id_2;
  logic [RANK-1:0] source;
  logic [K*RANK-1:0] sources;
  logic [LOGIT-1:0] of_wanted, of_stand_in;
  logic replaced_there;
  wire [LOGIT-1:0] of_rank = stands_in_1 ? of_stand_in : of_wanted;
  unit_pick #(.N(K), .WIDTH(RANK + 1)) pick_source (
    .entries(marked_sources), .index, .entry({replaced_there, source})
  );
  unit_pick #(.N(K), .WIDTH(LOGIT)) pick_wanted (.entries(wanted_logits), .index(index_1), .entry(of_wanted));
  unit_pick #(.N(K), .WIDTH(LOGIT)) pick_stand_in (.entries(stand_in_keys), .index(place_1), .entry(of_stand_in));
  always_comb begin
    ask = 1'b0;
    kind = WANTED;
    index = RANK'(count);
    again = ID'(count);
    case (state)
      MASSES: ask = may_ask;
      STAND_INS: begin
        ask = may_ask;
        kind = STAND_IN;
      end
      EVERY: begin
        ask = 1'b1;
        kind = ALL;
      end
      CHOOSE: kind = CHOSEN;
      WEIGH: begin
        ask = may_ask;
        kind = CHOSEN;
      end
      default: ;
    endcase
  end
  always_ff @(posedge clk) begin
    stands_in_1 <= kind == STAND_IN | (kind == CHOSEN & replaced_there);
    place_1 <= kind == CHOSEN ? source : index;
    value_2 <= score_ask ? score_logit : kind_1 == ALL ? logit_again : of_rank[LOGIT-1:ID];
    id_2 <= ~of_rank[ID-1:0];
    {kind_2, kind_1} <= {score_ask ? ALL : kind_1, kind};
    {index_2, index_1} <= {index_1, index};
    {choosing_2, choosing_1} <= {choosing_1, state == CHOOSE};
  end
  always_ff @(posedge clk or negedge rst_n) begin
    if (!rst_n) {ask_2, ask_1} <= '0;
    else if (start) {ask_2, ask_1} <= '0;
    else {ask_2, ask_1} <= {ask_1 | score_ask, ask};
  end
  unit_mass #(.TAG(2 + RANK), .SIGMOID(SIGMOID)) masses_of (
    .clk, .rst_n, .clear(start), .sigmoid, .ready(score_ready), .in_valid(ask_2), .in_tag({kind_2, index_2}), .largest,
    .value(value_2), .out_valid(mass_valid), .out_tag({mass_kind, mass_index}), .mass
  );
  assign score = mass;
  assign score_valid = mass_valid & scored & mass_kind == ALL;

  // Masses of the wanted, later of the chosen, and in the end their weights; masses of the stand-ins; sums.
  logic [K*32-1:0] stand_in_masses;
  logic [41:0] sum, sum_of_all;
  logic [11:0] collected;
  logic [DIVIDERS*32-1:0] quotients;
  localparam int unsigned BLOCKS = K / DIVIDERS;
  localparam int unsigned BLOCK = (BLOCKS > 1) ? $clog2(BLOCKS) : 1;
  logic [RANK:0] block;
  for (genvar i = 0; i < K; i++) begin : masses
    always_ff @(posedge clk) begin
      if (mass_valid && (mass_kind == WANTED || mass_kind == CHOSEN) && mass_index == RANK'(i))
        weights[32*i+:32] <= mass;
      else if (state == KEEP && block == (RANK + 1)'(i / DIVIDERS))
        weights[32*i+:32] <= quotients[32*(i%DIVIDERS)+:32];
      if (mass_valid && mass_kind == STAND_IN && mass_index == RANK'(i)) stand_in_masses[32*i+:32] <= mass;
    end
  end
  always_ff @(posedge clk) begin
    if (start || state == CHOOSE) sum <= '0;
    else if (mass_valid && (mass_kind == WANTED || mass_kind == CHOSEN)) sum <= sum + 42'(mass);
    if (start) sum_of_all <= '0;
    else if (mass_valid && mass_kind == ALL) sum_of_all <= sum_of_all + 42'(mass);
    // Stand-ins are not counted, but of a sigmoid: they come in the order in which they are needed, and in time.
    if (start || state == CHOOSE) collected <= '0;
    else if (mass_valid && (sigmoid || mass_kind != STAND_IN)) collected <= collected + 12'd1;
  end
  logic [11:0] asked;
  always_ff @(posedge clk) asked <= 12'(k) + (sigmoid ? 12'(k) : of_chosen ? 12'd0 : 12'(experts));
  wire [41:0] total = of_chosen ? sum : sum_of_all;

  // What a token may lose: parts of masses by one multiplier, which the pairs use after that. `fed` are the cycles
  // since it was given the first of them.
  logic [16:0] fed;
  logic [31:0] factor_a, factor_b, next_a, next_b;
  logic [63:0] product, part_product, error_left;
  logic [41:0] mass_left, part;
  logic [31:0] error_mass;
  unit_multiply #(.A(32), .B(32)) multiplier (.clk, .a(factor_a), .b(factor_b), .product);

  // Pairs: rank `rank` with stand-in `pair`. Masses, then their difference, its square and their product, then what it
  // costs. Two cycles a pair where the error is bounded.
  logic [K-1:0] at_rank, at_pair, at_last, replaceable;
  logic second;
  logic [K*(RANK+1)-1:0] marked_sources;
  for (genvar i = 0; i < K; i++) begin : marks
    assign marked_sources[(RANK+1)*i+:RANK+1] = {replaced[i], sources[RANK*i+:RANK]};
  end
  logic [31:0] old_mass, new_mass;
  logic [RANK-1:0] rank, pair;
  always_comb begin
    {old_mass, new_mass, rank, pair} = '0;
    for (int unsigned i = 0; i < K; i++) begin
      old_mass = old_mass | (weights[32*i+:32] & {32{at_rank[i]}});
      new_mass = new_mass | (stand_in_masses[32*i+:32] & {32{at_pair[i]}});
      if (at_rank[i]) rank = rank | RANK'(i);
      if (at_pair[i]) pair = pair | RANK'(i);
    end
  end
  for (genvar i = 0; i < K; i++) begin : pointers
    always_ff @(posedge clk) begin
      at_last[i] <= (RANK + 1)'(i + 1) == k;
      replaceable[i] <= 7'(i) >= keep_top;
    end
  end
  wire pairs_left = (at_rank & replaceable) != '0;
  wire present = (at_rank & wanted_resident) != '0;
  wire stand_in_there = (at_pair & stand_in_full) != '0;
  logic pairing;
  wire issue = pairing & pairs_left & ~present & stand_in_there & ~second;
  logic [10:0] issued;
  logic [31:0] old_1, new_1, old_2, new_2, lost_2, old_3, new_3;
  logic [RANK-1:0] rank_11, pair_11;
  logic [31:0] lost_9;
  logic [63:0] cost;
  always_ff @(posedge clk) begin
    {old_1, new_1} <= {old_mass, new_mass};
    lost_2 <= old_1 - new_1;
    {old_2, new_2} <= {old_1, new_1};
    {old_3, new_3} <= {old_2, new_2};
    // The square first, then a quarter of the product.
    cost <= issued[6] ? product : product >> 2;
    part_product <= product;
  end
  unit_delay #(.WIDTH(2 * RANK), .CYCLES(11)) pair_line (
    .clk, .in({rank, pair}), .out({rank_11, pair_11})
  );
  unit_delay #(.WIDTH(32), .CYCLES(7)) lost_line (.clk, .in(lost_2), .out(lost_9));
  always_comb begin
    next_a = issued[1] ? lost_2 : old_3;
    next_b = issued[1] ? lost_2 : new_3;
    if (fed[0]) {next_a, next_b} = {sum[31:0], eps_mass};
    if (fed[1]) {next_a, next_b} = {22'd0, sum[41:32], eps_mass};
    if (error_bound && fed[2]) {next_a, next_b} = {total[31:0], eps_error};
    if (error_bound && fed[3]) {next_a, next_b} = {22'd0, total[41:32], eps_error};
    if (error_bound && fed[11]) {next_a, next_b} = {error_mass, error_mass};
  end
  always_ff @(posedge clk) begin
    {factor_a, factor_b} <= {next_a, next_b};
    if (fed[6]) mass_left <= 42'(part_product[63:32]);
    if (fed[7]) mass_left <= mass_left + part_product[41:0];
    if (fed[8]) part <= 42'(part_product[63:32]);
    if (fed[9]) part <= part + part_product[41:0];
    if (fed[10]) error_mass <= part[41:32] != '0 ? 32'hffff_ffff : part[31:0];
    if (fed[16]) error_left <= product;
  end

  // What the pairs cost so far, kept or not: those before one that is not kept all were.
  logic [31+RANK:0] mass_spent;
  logic [63+RANK:0] error_spent;
  logic affordable, stopped;
  wire kept = issued[10] & ~stopped & affordable;
  always_ff @(posedge clk) begin
    if (start) {mass_spent, error_spent} <= '0;
    else begin
      if (issued[8]) mass_spent <= mass_spent + (32 + RANK)'(lost_9);
      if (issued[7] || issued[8]) error_spent <= error_spent + (64 + RANK)'(cost);
    end
    affordable <= mass_left >= 42'(mass_spent) & (~error_bound | (64 + RANK)'(error_left) >= error_spent);
  end
  for (genvar i = 0; i < K; i++) begin : replacements
    always_ff @(posedge clk) begin
      if (start) replaced[i] <= 1'b0;
      else if (kept && rank_11 == RANK'(i)) replaced[i] <= 1'b1;
      if (kept && rank_11 == RANK'(i)) sources[RANK*i+:RANK] <= pair_11;
    end
  end
  always_ff @(posedge clk) begin
    if (start) stopped <= 1'b0;
    else if (issued[10] && !kept) stopped <= 1'b1;
    if (start) stand_ins <= '0;
    else if (kept) stand_ins <= stand_ins + 1'b1;
  end
  wire may_replace = eps_mass != '0 & ~(error_bound & eps_error == '0);

  // The choice, rank by rank, and the greatest logit in it: of all, where all share the mass, else of those that do.
  for (genvar i = 0; i < K; i++) begin : choices
    assign missing[i] = in_use[i] & ~replaced[i] & ~wanted_resident[i];
    always_ff @(posedge clk) if (choosing_2 && index_2 == RANK'(i)) chosen_ids[i*ID+:ID] <= id_2;
  end
  always_ff @(posedge clk) begin
    // Scores are relative to nothing.
    if (start) largest <= 32'h8000_0000;
    else if (state == MASSES && count == '0) largest <= greatest;
    else if (choosing_2 && of_chosen && (index_2 == '0 || value_2 > largest)) largest <= value_2;
  end

  // Shares of the whole: it is brought to 32 bits, rounded up, and its parts with it.
  logic [3:0] down, down_later, bits_over;
  logic [31:0] whole, rounded;
  logic inexact, bits_lost;
  always_comb begin
    bits_over = '0;
    bits_lost = 1'b0;
    for (int i = 0; i < 10; i++) if (total[32+i]) bits_over = 4'(i + 1);
    for (int i = 0; i < 10; i++) if (4'(i) < down && total[i]) bits_lost = 1'b1;
  end
  always_ff @(posedge clk) begin
    down <= bits_over;
    down_later <= down;
    rounded <= 32'(total >> down);
    inexact <= bits_lost & 32'(total >> down) != 32'hffff_ffff;
    if (state == SHARE) whole <= rounded + 32'(inexact);
  end
  logic loading, stepping;
  always_ff @(posedge clk) {loading, stepping} <= {state == LOAD, state == DIVIDE & count[4:0] != 5'd16};
  for (genvar i = 0; i < DIVIDERS; i++) begin : dividers
    logic [BLOCKS*32-1:0] in_turn;
    logic [31:0] in_block, numerator;
    for (genvar j = 0; j < BLOCKS; j++) begin : turns
      assign in_turn[32*j+:32] = weights[32*(j*DIVIDERS+i)+:32];
    end
    unit_pick #(.N(BLOCKS), .WIDTH(32)) pick_numerator (
      .entries(in_turn), .index(BLOCK'(block)), .entry(in_block)
    );
    always_ff @(posedge clk) numerator <= in_block >> down_later;
    unit_quotient divider (
      .clk, .load(loading), .step(stepping), .numerator, .denominator(whole),
      .quotient(quotients[32*i+:32])
    );
  end

  wire running = state != IDLE;
  always_ff @(posedge clk or negedge rst_n) begin
    if (!rst_n) begin
      state <= IDLE;
      count <= '0;
      {at_rank, at_pair, pairing, second, issued, fed, block} <= '0;
      {chosen, weighed} <= '0;
    end else if (start) begin
      state <= LOGITS;
      count <= '0;
      {at_rank, at_pair, pairing, second, issued, fed, block} <= '0;
      {chosen, weighed} <= '0;
    end else if (cancel) begin
      state <= IDLE;
    end else if (running) begin
      if (may_ask || !(state == MASSES || state == STAND_INS || state == WEIGH)) count <= count + 12'd1;
      issued <= {issued[9:0], issue};
      fed <= fed << 1;
      case (state)
        LOGITS: begin
          count <= '0;
          if (in_valid && in_last) state <= k == (RANK + 1)'(K) && !scored ? MASSES : SETTLE;
        end
        // A key takes a cycle from cell to cell: the masses of the wanted are asked for as the last logit comes to
        // their cells. Past the cells that are not in use it takes as long as the wait here. Of a scored choice all are
        // in their cells before it is said.
        SETTLE: if (count == last_settling) begin
          state <= scored ? CHOOSE : MASSES;
          count <= '0;
        end
        MASSES: if (may_ask && count == last_rank) begin
          state <= STAND_INS;
          count <= '0;
        end
        STAND_INS: if (may_ask && count == last_rank) begin
          state <= of_chosen ? COLLECT : EVERY;
          count <= '0;
        end
        EVERY: if (count == last_expert) state <= COLLECT;
        COLLECT: begin
          count <= '0;
          at_rank <= at_last;
          at_pair <= K'(1);
          if (collected >= asked) begin
            state <= may_replace ? BUDGET : CHOOSE;
            fed[0] <= may_replace;
          end
        end
        // What may be lost is known before it is held against what the first pair loses.
        BUDGET: if (fed[error_bound ? 9 : 1]) begin
          state <= PAIRS;
          pairing <= 1'b1;
        end
        PAIRS: begin
          second <= issue & error_bound;
          if (!second) begin
            if (!pairs_left || (!present && !stand_in_there)) begin
              state <= SPEND;
              pairing <= 1'b0;
            end
            at_rank <= at_rank >> 1;
            if (issue) at_pair <= at_pair << 1;
          end
        end
        SPEND: begin
          count <= '0;
          if (issued == '0) state <= CHOOSE;
        end
        // A rank is said no earlier than two cycles after it is chosen here.
        CHOOSE: begin
          chosen <= 1'b1;
          if (count == last_rank) begin
            state <= WEIGH;
            count <= '0;
          end
        end
        WEIGH: if (may_ask && count == last_rank) state <= COLLECT_CHOSEN;
        // The sum is there, then how far it goes down, then what is left of it.
        COLLECT_CHOSEN: if (collected == 12'(k)) state <= SCALE;
        SCALE: state <= SHARE;
        SHARE: state <= LOAD;
        LOAD: begin
          state <= DIVIDE;
          count <= '0;
        end
        DIVIDE: if (count == 12'd16) state <= KEEP;
        KEEP: begin
          block <= block + 1'b1;
          if ((12'(block) + 12'd1) * 12'(DIVIDERS) >= 12'(k)) begin
            state <= IDLE;
            weighed <= 1'b1;
          end else begin
            state <= LOAD;
          end
        end
        default: state <= IDLE;
      endcase
    end
  end
`ifdef FORMAL
  // What the pairs that are kept lose together is never above what may be lost. That follows from: what is spent is
  // what was given up and what is on its way, until a pair is not kept; and what may be lost is known before a pair
  // gets there. No sum overflows, as there is a pair for each stand-in at most.
  logic known = 1'b0;
  logic [31:0] lost_10, lost_11;
  logic [31+RANK:0] given_up;
  logic [7:0] pairs, pairs_spent, pairs_between;
  always_comb begin
    pairs_between = '0;
    for (int i = 0; i < 9; i++) pairs_between = pairs_between + 8'(issued[i]);
  end
  wire early = state == LOGITS | state == SETTLE | state == MASSES | state == STAND_INS | state == EVERY
             | state == COLLECT;
  always_ff @(posedge clk) begin
    {lost_11, lost_10} <= {lost_10, lost_9};
    if (!rst_n) known <= 1'b0;
    else if (start) known <= 1'b1;
    if (start) {pairs, pairs_spent} <= '0;
    else begin
      if (issue) pairs <= pairs + 1'b1;
      if (issued[8]) pairs_spent <= pairs_spent + 1'b1;
    end
    if (start) given_up <= '0;
    else if (kept) given_up <= given_up + (32 + RANK)'(lost_11);
    // The unit gives up a choice only while its logits come.
    if (state != LOGITS) assume (!cancel);
    if (known && rst_n) begin
      assert (given_up == '0 || 42'(given_up) <= mass_left);
      if (!stopped) begin
        assert (42'(mass_spent) == 42'(given_up) + (issued[9] ? 42'(lost_10) : '0)
                                 + (issued[10] ? 42'(lost_11) : '0));
        if (issued[10] && affordable) assert (mass_left >= 42'(given_up) + 42'(lost_11));
      end
      assert (pairs == pairs_spent + pairs_between && pairs_spent <= pairs && pairs <= 8'(K));
      assert (42'(mass_spent) + 42'(pairs_spent) <= {pairs_spent, 32'd0});
      if (early || state == BUDGET) assert (pairs == '0);
      if (state == BUDGET || state == PAIRS) assert (at_pair == K'(1) << pairs);
      if (pairing) assert (state == PAIRS);
      if (issued != '0) assert (state == PAIRS || state == SPEND);
      if (early) assert (fed == '0);
      if (early || state == BUDGET || fed[7:0] != '0) assert (mass_spent == '0 && given_up == '0 && !stopped);
      assert ((fed & (fed - 17'd1)) == '0);
      if (fed[1:0] != '0) assert (state == BUDGET);
      for (int i = 2; i < 8; i++) if (fed[i]) assert (issued >> (i - 2) == '0);
    end
  end
`endif
endmodule
